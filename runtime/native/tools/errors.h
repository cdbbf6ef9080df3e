// Errors a user can act on: what, where, found, expected and the next step, printed as runtime/errors.py prints them.
#pragma once

#include <cstdio>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

#include "star_edge/star.h"

namespace star::tools {

/// What star-run ends with; as star-edge.
enum class Exit { ok = 0, unexpected = 1, bad_input = 2, gate_missed = 3, mismatch = 4 };

/// The parts of a message after the first; an empty one is left out.
struct Details {
    std::string where{}, found{}, expected{}, next{};
};

/// An error raised on purpose; star-run prints it and ends with its code.
class Failure : public std::runtime_error {
   public:
    Failure(Exit exit, std::string what, Details details = {})
        : std::runtime_error(text_of(what, details)), exit(exit), summary(std::move(what)), details(std::move(details)) {}
    const Exit exit;
    const std::string summary;
    const Details details;

   private:
    static std::string text_of(const std::string &what, const Details &details) {
        std::string text = what;
        const std::pair<const char *, const std::string &> parts[] = {{"where:    ", details.where},
                                                                      {"found:    ", details.found},
                                                                      {"expected: ", details.expected},
                                                                      {"next:     ", details.next}};
        for (const auto &[label, part] : parts)
            if (!part.empty()) text += std::string("\n  ") + label + part;
        return text;
    }
};

/// A file or argument given by the user cannot be used.
inline Failure input_error(const std::string &what, Details details = {}) {
    return Failure(Exit::bad_input, what, std::move(details));
}

/// Files, versions or a processor that do not belong together.
inline Failure mismatch_error(const std::string &what, Details details = {}) {
    return Failure(Exit::mismatch, what, std::move(details));
}

/// Why the bytes of an archive or array cannot be decoded; the reader that knows the file makes a Failure of it.
class Damaged : public std::runtime_error {
   public:
    using std::runtime_error::runtime_error;
};

/// One text of all values, as an output stream writes them.
template <class... Values>
std::string concat(const Values &...values) {
    std::ostringstream text;
    (text << ... << values);
    return text.str();
}

/// A number as printf writes it.
inline std::string formatted(const char *format, double value) {
    char text[64];
    std::snprintf(text, sizeof(text), format, value);
    return text;
}

}  // namespace star::tools
