// The one exception of the library; it ends at the C interface as a status and a message.
#pragma once

#include <stdexcept>
#include <string>

#include "star_edge/star.h"

namespace star {

class Error : public std::runtime_error {
   public:
    Error(star_status status, const std::string &message) : std::runtime_error(message), status(status) {}
    const star_status status;
};

}  // namespace star
