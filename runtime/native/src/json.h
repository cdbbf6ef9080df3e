// JSON that is not to be trusted: parsed within limits, read with its types checked.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "error.h"

namespace star {

using Json = nlohmann::json;

/// What is wrong with a document; the reader that knows its file makes an Error of it.
class Malformed : public std::runtime_error {
   public:
    Malformed(std::string found, std::string expected) : Malformed("", std::move(found), std::move(expected)) {}
    Malformed(const std::string &what, std::string found, std::string expected)
        : std::runtime_error(what), found(std::move(found)), expected(std::move(expected)) {}
    const std::string found, expected;
};

/// The error of a malformed document; `what` is said where nothing better is known than that it is malformed.
Error bad_file(const Malformed &malformed, const char *what, const std::string &where, const std::string &next);

/// Parses a document; throws Malformed when it is no JSON, nested too deep, or names a field of an object twice.
Json parse_json(std::string_view text);

/// A value and the path it stands at, e.g. $.skeleton.root. Every accessor throws Malformed when the value is another.
/// Refers to the document, which must outlive it.
class Value {
   public:
    explicit Value(const Json &json, std::string path = "$") : json_(&json), path_(std::move(path)) {}

    const Json &json() const { return *json_; }
    const std::string &path() const { return path_; }

    Value at(const std::string &field) const;
    std::optional<Value> find(const std::string &field) const;
    std::vector<std::pair<std::string, Value>> fields() const;
    std::vector<Value> items() const;
    int64_t integer(int64_t least, int64_t most) const;
    double number() const;
    const std::string &text() const;
    /// A text that is one of the choices.
    const std::string &text(const std::vector<std::string> &choices) const;

   private:
    void require(bool holds, const char *expected) const;

    const Json *json_;
    std::string path_;
};

/// Throws Malformed unless a document is of the kind expected, e.g. star-edge/bundle/1; Error (STAR_MISMATCH) when it is
/// newer.
void check_schema(const Value &document, const std::string &expected, const std::string &where);

}  // namespace star
