// A file is: the number of frames; per frame the number of bodies; per body a line of 10 fields that starts with the body id,
// a line 25, and 25 lines of 12 numbers that start with x y z in metres. Lines end in LF or CRLF.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>
#include <optional>

#include "../errors.h"
#include "clips.h"

namespace star::tools {
namespace {

constexpr int64_t JOINTS = 25, BODY_FIELDS = 10, JOINT_FIELDS = 12, ROW = 3 * JOINTS;
constexpr size_t MAX_PERSONS = 2;
// Kinect gives a person it lost and found again a new body id. A new id that starts within this distance of where a
// person was last seen continues that person: farther than a tracked body jumps, nearer than two people stand.
constexpr float LINK_METRES = 0.5f;
constexpr double LARGEST = std::numeric_limits<float>::max();
constexpr std::string_view SPACE = " \t\n\r\v\f";
constexpr size_t EXCERPT = 60;

using Point = std::array<float, 3>;

/// An integer of up to 19 digits.
struct Integer {
    bool negative = false;
    uint64_t size = 0;
    auto operator<=>(const Integer &) const = default;
};

/// Rows of one person so far: the frame each belongs to and its index among all bodies of the file.
struct Track {
    std::vector<int64_t> frames, rows;
};

std::string_view strip(std::string_view text) {
    const size_t first = text.find_first_not_of(SPACE);
    if (first == text.npos) return {};
    return text.substr(first, text.find_last_not_of(SPACE) - first + 1);
}

std::vector<std::string_view> lines_of(std::string_view bytes) {
    std::vector<std::string_view> lines;
    while (!bytes.empty()) {
        const size_t end = std::min(bytes.find_first_of("\r\n"), bytes.size());
        lines.push_back(bytes.substr(0, end));
        bytes.remove_prefix(end + (bytes.substr(end).starts_with("\r\n") ? 2 : end < bytes.size() ? 1 : 0));
    }
    while (!lines.empty() && strip(lines.back()).empty()) lines.pop_back();
    return lines;
}

/// The first fields of a line, at most limit + 1 of them.
std::vector<std::string_view> fields_of(std::string_view line, size_t limit) {
    std::vector<std::string_view> fields;
    for (line = strip(line); !line.empty() && fields.size() <= limit; line = strip(line)) {
        const size_t end = std::min(line.find_first_of(SPACE), line.size());
        fields.push_back(line.substr(0, end));
        line.remove_prefix(end);
    }
    return fields;
}

std::optional<Integer> integer_of(std::string_view text) {
    text = strip(text);
    Integer value{.negative = text.starts_with('-')};
    if (value.negative) text.remove_prefix(1);
    const bool digits = !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (!digits || text.size() > 19) return std::nullopt;
    std::from_chars(text.data(), text.data() + text.size(), value.size);
    if (value.size == 0) value.negative = false;
    return value;
}

/// A coordinate that float can hold. What is too small for double is zero, or next to it, as Python reads it.
std::optional<float> coordinate_of(std::string_view text) {
    if (text.starts_with('+') && !text.starts_with("+-")) text.remove_prefix(1);
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error == std::errc::invalid_argument || end != text.data() + text.size()) return std::nullopt;
    if (error == std::errc::result_out_of_range) value = std::strtod(std::string(text).c_str(), nullptr);
    if (!(std::abs(value) <= LARGEST)) return std::nullopt;
    return static_cast<float>(value);
}

std::string excerpt_of(std::string_view line) {
    std::string text;
    constexpr const char *digits = "0123456789abcdef";
    for (const char c : strip(line)) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte < 0x80)
            text += c;
        else
            text += {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
    }
    return text.size() > EXCERPT ? "'" + text.substr(0, EXCERPT) + "…'" : "'" + text + "'";
}

/// Takes a file apart, line by line.
class Parser {
   public:
    Parser(std::string_view bytes, const std::string &where) : bytes_(bytes), where_(where), lines_(lines_of(bytes)) {}

    int64_t frames = 0;
    std::vector<Track> tracks;  // one a body id, in order of appearance
    std::vector<float> xyz;     // [bodies, 25, 3] of all bodies of all frames

    void parse() {
        frames = count("the number of frames");
        if (frames == 0) throw failure(0, "file without frames", "0", "at least one frame");
        for (int64_t frame = 0; frame < frames; ++frame) {
            const int64_t bodies = count(concat("the number of bodies of frame ", frame + 1, " of ", frames));
            for (int64_t body = 0; body < bodies; ++body) read_body(frame, body);
        }
        if (at_ < lines_.size())
            throw failure(at_, "text after the last frame", excerpt_of(lines_[at_]),
                          concat("end of file after ", frames, " frames"));
        read_coordinates();
    }

   private:
    Failure failure(size_t line, const char *what, const std::string &found, const std::string &expected) const {
        return input_error(what, {.where = concat(where_, ", line ", line + 1), .found = found, .expected = expected});
    }

    int64_t count(const std::string &what) {
        if (at_ >= lines_.size()) throw failure(at_, "file is truncated", "end of file", what);
        const std::optional<Integer> value = integer_of(lines_[at_]);
        if (!value || value->negative) throw failure(at_, "file is corrupt", excerpt_of(lines_[at_]), what);
        ++at_;
        // each takes a line, so that a larger number ends the file as surely
        return static_cast<int64_t>(std::min<uint64_t>(value->size, std::numeric_limits<int64_t>::max()));
    }

    void read_body(int64_t frame, int64_t body) {
        const std::string of_frame = concat("frame ", frame + 1, " of ", frames);
        if (at_ >= lines_.size())
            throw failure(lines_.size(), "file is truncated", "end of file", concat("body ", body + 1, " of ", of_frame));
        Track &track = track_of_line(frame);
        ++at_;
        const int64_t joints = count("the number of joints");
        if (joints != JOINTS)
            throw failure(at_ - 1, "wrong joint count", concat(joints, " joints"), concat(JOINTS, " joints"));
        if (lines_.size() - at_ < static_cast<size_t>(JOINTS))
            throw failure(lines_.size(), "file is truncated", "end of file", concat(JOINTS, " joints in ", of_frame));
        track.frames.push_back(frame);
        track.rows.push_back(static_cast<int64_t>(first_lines_.size()));
        first_lines_.push_back(at_);
        at_ += JOINTS;
    }

    Track &track_of_line(int64_t frame) {
        const std::vector<std::string_view> fields = fields_of(lines_[at_], BODY_FIELDS);
        const std::optional<Integer> identity = fields.size() == BODY_FIELDS ? integer_of(fields[0]) : std::nullopt;
        if (!identity)
            throw failure(at_, "file is corrupt", excerpt_of(lines_[at_]),
                          concat(BODY_FIELDS, " fields of a body, the first its id"));
        const auto [known, is_new] = identities_.try_emplace(*identity, tracks.size());
        if (is_new) tracks.emplace_back();
        Track &track = tracks[known->second];
        if (!track.frames.empty() && track.frames.back() == frame)
            throw failure(at_, "file is corrupt",
                          concat("body id ", identity->negative ? "-" : "", identity->size, " twice in frame ", frame + 1),
                          "one body per id and frame");
        return track;
    }

    // The other nine fields of real files hold anything from NaN to -1.#IND: only x, y, z are read.
    void read_coordinates() {
        xyz.reserve(first_lines_.size() * ROW);
        for (const size_t first : first_lines_)
            for (size_t line = first; line < first + JOINTS; ++line) read_joint(line);
    }

    void read_joint(size_t line) {
        const std::vector<std::string_view> fields = fields_of(lines_[line], JOINT_FIELDS);
        bool plain = fields.size() == JOINT_FIELDS && lines_[line].find('_') == std::string_view::npos;
        for (size_t axis = 0; plain && axis < 3; ++axis) {
            const std::optional<float> value = coordinate_of(fields[axis]);
            plain = value.has_value();
            if (plain) xyz.push_back(*value);
        }
        if (plain) return;
        const bool cut = line + 1 == lines_.size() && !bytes_.ends_with('\n') && !bytes_.ends_with('\r');
        throw failure(line, cut ? "file is truncated" : "file is corrupt", excerpt_of(lines_[line]),
                      concat(JOINT_FIELDS, " fields, the first three finite x y z in metres"));
    }

    const std::string_view bytes_;
    const std::string &where_;
    const std::vector<std::string_view> lines_;
    size_t at_ = 0;
    std::map<Integer, size_t> identities_;  // body id -> index of its track
    std::vector<size_t> first_lines_;       // line index of each body's first joint
};

/// Persons of a file from the bodies that a Parser found.
class Persons {
   public:
    explicit Persons(const Parser &file) : xyz_(file.xyz) {
        for (const Track &track : file.tracks)
            if (std::any_of(track.rows.begin(), track.rows.end(), [&](int64_t row) { return tracked(row); }))
                found.push_back(track);
        link();
    }

    std::vector<Track> found;

    /// The one that moves most first, then the one that appears first, whatever their ids.
    void order_by_motion() {
        std::vector<std::pair<double, size_t>> order;
        for (size_t index = 0; index < found.size(); ++index) order.emplace_back(-motion(found[index]), index);
        std::sort(order.begin(), order.end(), [&](const auto &a, const auto &b) {
            return a.first != b.first ? a.first < b.first : appears_before(found[a.second], found[b.second]);
        });
        std::vector<Track> sorted;
        for (const auto &[key, index] : order) sorted.push_back(std::move(found[index]));
        found = std::move(sorted);
    }

    const float *row(int64_t index) const { return xyz_.data() + index * ROW; }

    bool tracked(int64_t index) const { return is_tracked(row(index), ROW); }

   private:
    static bool appears_before(const Track &a, const Track &b) {
        return std::pair(a.frames[0], a.rows[0]) < std::pair(b.frames[0], b.rows[0]);
    }

    /// Joins tracks of one person under several body ids: each continues the nearest person already gone, if any.
    void link() {
        std::vector<Track> tracks = std::move(found);
        std::sort(tracks.begin(), tracks.end(), appears_before);
        found.clear();
        std::vector<Point> ends;  // where each person was last seen
        for (Track &track : tracks) {
            const Point end = centre(track.rows.rbegin(), track.rows.rend());
            const size_t person = nearest(track, ends);
            if (person == found.size()) {
                found.push_back(std::move(track));
                ends.push_back(end);
                continue;
            }
            found[person].frames.insert(found[person].frames.end(), track.frames.begin(), track.frames.end());
            found[person].rows.insert(found[person].rows.end(), track.rows.begin(), track.rows.end());
            ends[person] = end;
        }
    }

    /// Index of the person that a track continues, or that of a new one.
    size_t nearest(const Track &track, const std::vector<Point> &ends) const {
        const Point start = centre(track.rows.begin(), track.rows.end());
        size_t best = found.size();
        float least = std::numeric_limits<float>::infinity();
        for (size_t person = 0; person < found.size(); ++person) {
            if (found[person].frames.back() >= track.frames[0]) continue;
            const float distance =
                std::hypot(start[0] - ends[person][0], start[1] - ends[person][1], start[2] - ends[person][2]);
            if (distance <= LINK_METRES && distance < least) {
                least = distance;
                best = person;
            }
        }
        return best;
    }

    /// Mean of the tracked joints in the first row that has any.
    template <class Rows>
    Point centre(Rows first, Rows end) const {
        const float *joints = row(*std::find_if(first, end, [&](int64_t index) { return tracked(index); }));
        Point sum{};
        float count = 0;
        for (int64_t joint = 0; joint < JOINTS; ++joint, joints += 3) {
            if (!is_tracked(joints, 3)) continue;
            for (size_t axis = 0; axis < 3; ++axis) sum[axis] += joints[axis];
            ++count;
        }
        return {sum[0] / count, sum[1] / count, sum[2] / count};
    }

    /// Sum over x, y, z of the standard deviation over tracked rows and their joints.
    double motion(const Track &track) const {
        std::array<double, 3> mean = moments(track, {}, 1), variance = moments(track, mean, 2);
        return std::sqrt(variance[0]) + std::sqrt(variance[1]) + std::sqrt(variance[2]);
    }

    /// Mean over tracked rows and joints of (x - centre) to the first or second power.
    std::array<double, 3> moments(const Track &track, const std::array<double, 3> &centre, int power) const {
        std::array<double, 3> sum{};
        double count = 0;
        for (const int64_t index : track.rows) {
            if (!tracked(index)) continue;
            count += JOINTS;
            for (int64_t at = 0; at < ROW; ++at) {
                const double difference = row(index)[at] - centre[static_cast<size_t>(at % 3)];
                sum[static_cast<size_t>(at % 3)] += power == 1 ? difference : difference * difference;
            }
        }
        return {sum[0] / count, sum[1] / count, sum[2] / count};
    }

    const std::vector<float> &xyz_;
};

}  // namespace

Recording parse_ntu(std::string_view bytes, const std::string &where, const std::string &name) {
    Parser file(bytes, where);
    file.parse();
    Persons persons(file);
    if (persons.found.empty())
        throw input_error("no body in any frame",
                          {.where = where, .found = concat(file.frames, " frames, 0 bodies"), .expected = "at least one"});
    persons.order_by_motion();
    Recording recording{.file = where, .joint_count = JOINTS, .joints = {}, .clips = {}};
    Clip clip{.name = name, .person_lengths = {}};
    for (size_t index = 0; index < std::min(MAX_PERSONS, persons.found.size()); ++index) {
        int64_t kept = 0;
        for (const int64_t row : persons.found[index].rows) {
            if (!persons.tracked(row)) continue;
            recording.joints.insert(recording.joints.end(), persons.row(row), persons.row(row) + ROW);
            ++kept;
        }
        clip.person_lengths.push_back(kept);
        clip.rows += kept;
        clip.dropped += file.frames - kept;
    }
    recording.clips.push_back(std::move(clip));
    return recording;
}

}  // namespace star::tools
