// SHA-256, by mbed TLS.
#pragma once

#include <string>
#include <string_view>

namespace star {

/// 64 hex digits.
std::string sha256(std::string_view bytes);

}  // namespace star
