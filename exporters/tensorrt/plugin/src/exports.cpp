// What TensorRT looks for in a library that it loads by IPluginRegistry::loadLibrary(), and nothing else.
#include "creators.h"
#include "log.h"

#define EXPORTED __attribute__((visibility("default")))

extern "C" EXPORTED nvinfer1::IPluginCreatorInterface *const *getCreators(int32_t &count) {
    count = static_cast<int32_t>(star_edge::creators().size());
    return star_edge::creators().data();
}

extern "C" EXPORTED void setLoggerFinder(nvinfer1::ILoggerFinder *finder) { star_edge::set_logger_finder(finder); }
