#include "json.h"

#include <set>

#include "message.h"

namespace star {

namespace {

/// The library's text of an error without its number.
std::string reason_of(const Json::exception &error) {
    const std::string text = error.what();
    const std::size_t end = text.find("] ");
    return end == text.npos ? text : text.substr(end + 2);
}

}  // namespace

Error bad_file(const Malformed &malformed, const char *what, const std::string &where, const std::string &next) {
    const bool has_word = *malformed.what() != '\0';
    return Error(STAR_BAD_FILE,
                 message(has_word ? malformed.what() : what,
                         {.where = where, .found = malformed.found, .expected = malformed.expected, .next = next}));
}

Json parse_json(std::string_view text) {
    constexpr int deepest = 32;  // of ours: 5
    std::vector<std::set<std::string>> fields;
    const auto check = [&fields](int depth, Json::parse_event_t event, Json &value) {
        if (depth > deepest) throw Malformed("values nested too deep", "at most " + std::to_string(deepest) + " levels");
        switch (event) {
            case Json::parse_event_t::object_start:
                fields.emplace_back();
                break;
            case Json::parse_event_t::object_end:
                fields.pop_back();
                break;
            case Json::parse_event_t::key:
                if (!fields.back().insert(value.get_ref<const std::string &>()).second)
                    throw Malformed("the field " + in_quotes(value.get_ref<const std::string &>()) + " twice in one object",
                                    "each once");
                break;
            default:
                break;
        }
        return true;
    };
    try {
        return Json::parse(text, check);
    } catch (const Json::exception &error) {
        throw Malformed(reason_of(error), "JSON");
    }
}

void Value::require(bool holds, const char *expected) const {
    if (!holds) throw Malformed(std::string(json_->type_name()) + " at " + in_quotes(path_), expected);
}

Value Value::at(const std::string &field) const {
    const std::optional<Value> found = find(field);
    if (!found) throw Malformed("no " + in_quotes(field) + " in " + in_quotes(path_), field);
    return *found;
}

std::optional<Value> Value::find(const std::string &field) const {
    require(json_->is_object(), "an object");
    const auto found = json_->find(field);
    if (found == json_->end()) return std::nullopt;
    return Value(*found, path_ + "." + field);
}

std::vector<std::pair<std::string, Value>> Value::fields() const {
    require(json_->is_object(), "an object");
    std::vector<std::pair<std::string, Value>> found;
    found.reserve(json_->size());
    for (const auto &[field, value] : json_->items()) found.emplace_back(field, Value(value, path_ + "." + field));
    return found;
}

std::vector<Value> Value::items() const {
    require(json_->is_array(), "an array");
    std::vector<Value> found;
    found.reserve(json_->size());
    for (const Json &value : *json_) found.emplace_back(value, path_ + "[" + std::to_string(found.size()) + "]");
    return found;
}

int64_t Value::integer(int64_t least, int64_t most) const {
    require(json_->is_number_integer(), "an integer");
    const bool too_large = json_->is_number_unsigned() && json_->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
    if (too_large || json_->get<int64_t>() < least || json_->get<int64_t>() > most)
        throw Malformed(json_->dump() + " at " + in_quotes(path_), std::to_string(least) + " to " + std::to_string(most));
    return json_->get<int64_t>();
}

double Value::number() const {
    require(json_->is_number(), "a number");
    return json_->get<double>();
}

const std::string &Value::text() const {
    require(json_->is_string(), "a text");
    return json_->get_ref<const std::string &>();
}

const std::string &Value::text(const std::vector<std::string> &choices) const {
    std::string expected;
    for (const std::string &choice : choices) {
        if (choice == text()) return text();
        expected += (expected.empty() ? "one of " : ", ") + choice;
    }
    throw Malformed(in_quotes(text()) + " at " + in_quotes(path_), expected);
}

void check_schema(const Value &document, const std::string &expected, const std::string &where) {
    const std::string found = document.at("schema").text();
    const std::size_t at = found.rfind('/') + 1, known = expected.rfind('/') + 1;
    const std::string version = found.substr(at);
    const bool decimal = !version.empty() && version.find_first_not_of("0123456789") == version.npos;
    if (found.substr(0, at) != expected.substr(0, known) || !decimal || version.find_first_not_of('0') == version.npos)
        throw Malformed("document of another kind", in_quotes(found), expected);
    // only digits: a version of ten and more is newer than any known, and would not fit the number
    if (version.size() > 9 || std::stol(version) > std::stol(expected.substr(known)))
        throw Error(STAR_MISMATCH, message("written by a newer star-edge", {.where = where,
                                                                            .found = in_quotes(found),
                                                                            .expected = expected + " or older",
                                                                            .next = "pip install --upgrade star-edge"}));
}

}  // namespace star
