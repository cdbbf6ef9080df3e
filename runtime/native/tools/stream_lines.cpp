#include "stream_lines.h"

#include <cmath>
#include <istream>
#include <ostream>

namespace star::tools {
namespace {

constexpr size_t LINE_LIMIT = 4u << 20;  // bytes; a line without an end must not fill the memory
constexpr size_t EXCERPT = 80;
constexpr const char *SPACE = " \t\n\r\v\f";

/// The next line with its end, at most LINE_LIMIT bytes of it; empty at the end of the input.
std::string read_line(std::istream &lines) {
    std::string line;
    std::streambuf &buffer = *lines.rdbuf();
    while (line.size() < LINE_LIMIT) {
        const int c = buffer.sbumpc();
        if (c == std::char_traits<char>::eof()) break;
        line += static_cast<char>(c);
        if (c == '\n') break;
    }
    return line;
}

std::string strip(const std::string &text) {
    const size_t first = text.find_first_not_of(SPACE);
    return first == text.npos ? "" : text.substr(first, text.find_last_not_of(SPACE) - first + 1);
}

std::string name_of(const Json &id) { return id.is_string() ? "'" + id.get<std::string>() + "'" : id.dump(); }

Frame parse_line(const std::string &line, const std::string &where) {
    try {
        return Frame::parse(line);
    } catch (const Malformed &malformed) {
        throw input_error(concat("not a frame: ", malformed.found, " instead of ", malformed.expected),
                          {.where = where,
                           .found = strip(line.substr(0, EXCERPT)),
                           .expected = R"({"t": 12.3, "persons": [{"id": 1, "joints": [[x, y, z], ...]}]})"});
    }
}

}  // namespace

int64_t Identities::number_of(const Json &id, int64_t frame) {
    if (frame >= next_sweep_) {
        forget_before(frame - window_);
        next_sweep_ = frame + window_;
    }
    const auto [found, is_new] = numbers_.try_emplace(id.dump(), next_);
    if (is_new) known_[next_++] = {id, frame};
    known_[found->second].last_frame = frame;
    return found->second;
}

void Identities::forget_before(int64_t frame) {
    std::erase_if(known_, [&](const auto &entry) {
        if (entry.second.last_frame >= frame) return false;
        numbers_.erase(entry.second.id.dump());
        return true;
    });
}

StreamLines::StreamLines(Recognizer &recognizer, int64_t window, int64_t hop)
    : recognizer_(recognizer), identities_(window), logits_(static_cast<size_t>(recognizer.info().classes)) {
    star_stream *stream = nullptr;
    check(star_stream_create(recognizer.context(), window, hop, &stream));
    stream_.reset(stream);
}

void StreamLines::run(std::istream &lines, std::ostream &out, const std::string &source) {
    int64_t number = 0;
    for (std::string line = read_line(lines); !line.empty(); line = read_line(lines)) {
        const std::string where = concat(source, ", line ", ++number);
        if (line.size() == LINE_LIMIT)
            throw input_error("line too long", {.where = where, .expected = concat("less than ", LINE_LIMIT, " bytes")});
        if (strip(line).empty()) continue;
        std::optional<OrderedJson> result;
        try {
            result = push(parse_line(line, where));
        } catch (const Failure &failure) {
            Details details = failure.details;
            if (details.where != where) details.where = details.where.empty() ? where : where + ", " + details.where;
            throw Failure(failure.exit, failure.summary, details);
        }
        if (!result) continue;
        ++results_;
        out << dump(*result, -1) << std::endl;  // a reader waits for it
        if (!out) throw Failure(Exit::mismatch, "cannot write the results", {.where = "standard output"});
    }
}

std::optional<OrderedJson> StreamLines::push(const Frame &frame) {
    std::vector<star_person> persons;
    for (size_t index = 0; index < frame.persons.size(); ++index) {
        check_person(frame, index);
        const Frame::Person &person = frame.persons[index];
        persons.push_back({identities_.number_of(person.id, frames_), person.joints.data()});
    }
    star_stream_result result{};
    int32_t ready = 0;
    check(star_stream_push(stream_.get(), persons.data(), static_cast<int64_t>(persons.size()), &result, logits_.data(),
                           &ready));
    ++frames_;
    if (!ready) return std::nullopt;
    return result_of(frame, result);
}

void StreamLines::check_person(const Frame &frame, size_t index) const {
    const auto &[id, joints] = frame.persons[index];
    for (size_t before = 0; before < index; ++before)
        if (frame.persons[before].id == id)
            throw input_error("a person appears twice in one frame",
                              {.found = "id " + name_of(id), .expected = "one entry a person"});
    const auto wanted = static_cast<size_t>(recognizer_.info().joints);
    if (joints.size() != 3 * wanted)
        throw input_error("wrong joint count", {.where = "person " + name_of(id),
                                                .found = concat("shape (", joints.size() / 3, ", 3)"),
                                                .expected = concat("(", wanted, ", 3)")});
    for (size_t at = 0; at < joints.size(); ++at)
        if (!std::isfinite(joints[at]))
            throw input_error("joints hold NaN or infinity", {.where = "person " + name_of(id),
                                                              .found = concat("joint ", at / 3),
                                                              .expected = "finite coordinates (zeros where a joint is lost)"});
}

OrderedJson StreamLines::result_of(const Frame &frame, const star_stream_result &result) const {
    std::vector<int64_t> numbers(static_cast<size_t>(result.persons));
    check(star_stream_persons(stream_.get(), numbers.data()));
    OrderedJson persons = OrderedJson::array();
    for (const int64_t number : numbers) persons.emplace_back(identities_.id_of(number));
    OrderedJson line = {{"t", frame.t ? OrderedJson(*frame.t) : OrderedJson()},
                        {"frame", result.frame},
                        {"persons", persons},
                        {"rows", result.rows},
                        {"label", nullptr},
                        {"name", nullptr},
                        {"confidence", nullptr}};
    if (result.rows == 0) return line;
    recognizer_.check_finite(logits_, concat("frame ", result.frame));
    const std::vector<double> probabilities = softmax(logits_);
    line["label"] = result.label;
    line["name"] = recognizer_.class_name(result.label);
    line["confidence"] = probabilities[static_cast<size_t>(result.label)];
    return line;
}

}  // namespace star::tools
