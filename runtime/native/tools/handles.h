// The C interface's handles, freed by themselves, and its statuses as errors.
#pragma once

#include <memory>

#include "errors.h"
#include "star_edge/star.h"

namespace star::tools {

template <auto free>
struct Free {
    template <class Handle>
    void operator()(Handle *handle) const {
        free(handle);
    }
};

using Model = std::unique_ptr<star_model, Free<star_model_free>>;
using Context = std::unique_ptr<star_context, Free<star_context_free>>;
using StreamHandle = std::unique_ptr<star_stream, Free<star_stream_free>>;

inline Exit exit_of(star_status status) {
    switch (status) {
        case STAR_OK:
            return Exit::ok;
        case STAR_INVALID_ARGUMENT:
        case STAR_BAD_FILE:
            return Exit::bad_input;
        case STAR_IO:
        case STAR_MISMATCH:
        case STAR_UNSUPPORTED:
        case STAR_OUT_OF_MEMORY:
            return Exit::mismatch;
        case STAR_INTERNAL:
            break;
    }
    return Exit::unexpected;
}

/// Throws the library's message when a call failed.
inline void check(star_status status) {
    if (status != STAR_OK) throw Failure(exit_of(status), star_last_error());
}

}  // namespace star::tools
