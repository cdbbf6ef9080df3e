#include "log.h"

#include <atomic>
#include <cstdarg>
#include <cstdio>

namespace star_edge {
namespace {

std::atomic<nvinfer1::ILoggerFinder *> logger_finder{nullptr};

nvinfer1::ILogger *find_logger() noexcept {
    nvinfer1::ILoggerFinder *finder = logger_finder;
    try {
        return finder == nullptr ? nullptr : finder->findLogger();
    } catch (...) {
        return nullptr;
    }
}

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder *finder) noexcept { logger_finder = finder; }

void log_error(const char *format, ...) noexcept {
    char line[512] = "star_edge: ";
    constexpr int kPrefix = sizeof "star_edge: " - 1;
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(line + kPrefix, sizeof line - kPrefix, format, arguments);
    va_end(arguments);
    if (nvinfer1::ILogger *logger = find_logger()) {
        logger->log(nvinfer1::ILogger::Severity::kERROR, line);
    } else {
        std::fprintf(stderr, "%s\n", line);
    }
}

}  // namespace star_edge
