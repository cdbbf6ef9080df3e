// One line of a stream: {"t": 12.3, "persons": [{"id": 1, "joints": [[x, y, z], ...]}]}; t is optional.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "json.h"

namespace star::tools {

/// One frame of a stream.
struct Frame {
    struct Person {
        Json id;                    // an integer of 64 bits, or text
        std::vector<float> joints;  // x, y, z or x, y, score of each
    };
    std::optional<double> t;
    std::vector<Person> persons;

    /// Throws Malformed, saying what and where in the document, for what is no frame.
    static Frame parse(std::string_view line);
};

}  // namespace star::tools
