// Error lines, through TensorRT's logger where it has handed one over.
#pragma once

#include "tensorrt.h"

namespace star_edge {

void set_logger_finder(nvinfer1::ILoggerFinder *finder) noexcept;

/// One line "star_edge: ..." of severity kERROR, on stderr where there is no logger. Allocates nothing.
[[gnu::format(printf, 1, 2)]] void log_error(const char *format, ...) noexcept;

}  // namespace star_edge
