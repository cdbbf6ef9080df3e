// One-line messages of errors: what, where, found, expected and the next step, as runtime/errors.py has them on lines.
#pragma once

#include <string>
#include <string_view>

namespace star {

/// The parts of a message after the first; an empty one is left out.
struct Details {
    std::string where{}, found{}, expected{}, next{};
};

/// "what; where: ...; found: ...; expected: ...; next: ..." on one line, whatever characters a file has put into it.
std::string message(std::string_view what, const Details &details = {});

/// Text of a file in quotes, cut where it is long.
std::string in_quotes(std::string_view text);

}  // namespace star
