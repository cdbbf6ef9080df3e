/**
 * @file star.h
 * @brief C interface of the star-edge runtime: reads a bundle and recognises packed, variable-length skeleton clips.
 *
 * Handles are opaque and owned by the caller, who frees each once. Every function that can fail returns a status; the
 * message of a thread's last failure is at star_last_error(). No exception crosses this interface. Pointers are never
 * kept beyond a call, unless said.
 *
 * A model is immutable once loaded and may be shared by any number of threads; a context or a stream belongs to one thread at
 * a time. Contexts keep their model alive, and streams their context's model: free them in any order.
 *
 * Packed clips: float32 [F, V, C] for all clips together, cu_seqlens [B+1] with cu_seqlens[0] = 0, non-decreasing and ending
 * in F; clip b is rows cu_seqlens[b] to cu_seqlens[b+1]. Persons of a clip stand one after the other along its rows.
 */
#ifndef STAR_EDGE_STAR_H
#define STAR_EDGE_STAR_H

#include <stddef.h>
#include <stdint.h>

#if defined(STAR_EDGE_STATIC)
#define STAR_API
#else
#define STAR_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/** @brief Version of this interface; grows when a declaration here changes. */
#define STAR_ABI_VERSION 1

/** @brief What a call came to. Values are stable. */
typedef enum star_status {
    STAR_OK = 0,
    STAR_INVALID_ARGUMENT = 1, /**< An argument of the call cannot be used. */
    STAR_IO = 2,               /**< A file is missing or cannot be read. */
    STAR_BAD_FILE = 3,         /**< A file is damaged, or not what it says it is. */
    STAR_MISMATCH = 4,         /**< Parts that do not belong together, or a newer format. */
    STAR_UNSUPPORTED = 5,      /**< The bundle or this processor lacks what was asked for. */
    STAR_OUT_OF_MEMORY = 6,
    STAR_INTERNAL = 7 /**< A defect of this library. */
} star_status;

/** @brief Arithmetic of a model's matrix products; everything else is float32. */
typedef enum star_precision {
    STAR_PRECISION_DEFAULT = 0, /**< The bundle's default one. */
    STAR_PRECISION_FP32 = 1,
    STAR_PRECISION_FP16 = 2, /**< Weights stored in fp16; sums in float32. */
    STAR_PRECISION_BF16 = 3, /**< Weights and inputs of products in bfloat16; sums in float32. */
    STAR_PRECISION_INT8 = 4  /**< The bundle's calibration, W8A8; sums in int32. */
} star_precision;

/** @brief Instruction set of the kernels, or what else runs a model. */
typedef enum star_isa {
    STAR_ISA_AUTO = 0, /**< The best this processor has. */
    STAR_ISA_PORTABLE = 1,
    STAR_ISA_AVX2 = 2,
    STAR_ISA_AVX512 = 3, /**< With VNNI and BF16 where the processor has them. */
    STAR_ISA_NEON = 4,   /**< With dotprod and bf16 where the processor has them. */
    STAR_ISA_CUDA = 5,   /**< An NVIDIA GPU, only where it is asked for; in builds with STAR_EDGE_CUDA. */
    /** The TensorRT engine that `star-edge build` put into the bundle's folder, as STAR_ISA_CUDA; with STAR_EDGE_TENSORRT. */
    STAR_ISA_TENSORRT = 6
} star_isa;

/** @brief A loaded model. */
typedef struct star_model star_model;
/** @brief Memory and threads to run a model with. */
typedef struct star_context star_context;
/** @brief A sliding window over frames of tracked persons. */
typedef struct star_stream star_stream;

/** @brief Bytes of a file the caller has read. */
typedef struct star_bytes {
    const void *data;
    size_t size;
} star_bytes;

/** @brief What a model is; all sizes in elements. Strings live as long as the model. */
typedef struct star_model_info {
    int64_t joints;   /**< V */
    int64_t channels; /**< C of the features. */
    int64_t classes;  /**< K */
    int64_t dim;
    int64_t heads;
    int64_t layers;
    star_precision precision; /**< The one that runs, never STAR_PRECISION_DEFAULT. */
    star_isa isa;             /**< The one that runs, never STAR_ISA_AUTO. */
    const char *products;     /**< Instruction that multiplies, e.g. "avx512 fma", "avx512_bf16 dpbf16", "neon dotprod". */
    const char *storage;      /**< Precision the weights of the products are stored in, e.g. "fp16". */
    const char *compute;      /**< Precision they are multiplied in, e.g. "fp32". */
    const char *bundle_id;    /**< 64 hex digits. */
} star_model_info;

/** @brief Version of the library, e.g. "0.1.0". */
STAR_API const char *star_version(void);

/** @brief The STAR_ABI_VERSION the library was built with; compare it with the header's. */
STAR_API int32_t star_abi_version(void);

/** @brief Message of the calling thread's last failed call: what, where, found, expected, and what to do. Never null. */
STAR_API const char *star_last_error(void);

/** @brief Instruction sets this build and this processor have, e.g. "avx512 vnni bf16, avx2, portable". */
STAR_API const char *star_instruction_sets(void);

/**
 * @brief Instruction that multiplies in a precision, as star_model_info.products names it.
 * @param precision not STAR_PRECISION_DEFAULT, which a bundle decides. @param isa kernels to use.
 * @return null where this build or this processor lacks the instruction set, or for an unknown number.
 */
STAR_API const char *star_products(star_precision precision, star_isa isa);

/**
 * @brief Load a bundle from its folder NAME.star, comparing sizes and hashes of what is read.
 * @param path the folder.
 * @param precision what to multiply in. @param isa kernels to use.
 * @param[out] model a new model, null on failure.
 */
STAR_API star_status star_model_load(const char *path, star_precision precision, star_isa isa, star_model **model);

/**
 * @brief Load a bundle whose files the caller has read and whose hashes the caller has compared.
 * @param manifest bytes of manifest.json. @param weights of weights.safetensors.
 * @param calibration of calibration.json; size 0 where there is none. Bytes may go when the call returns.
 */
STAR_API star_status star_model_load_bytes(star_bytes manifest, star_bytes weights, star_bytes calibration,
                                           star_precision precision, star_isa isa, star_model **model);

/** @brief Free a model; null is allowed. */
STAR_API void star_model_free(star_model *model);

/** @brief What a model is and how it runs. */
STAR_API star_status star_model_describe(const star_model *model, star_model_info *info);

/** @brief Name of class index 0 to K-1, null beyond; lives as long as the model. */
STAR_API const char *star_model_class_name(const star_model *model, int64_t index);

/** @brief Precision a module is computed in, by its path, e.g. "layers.0.temporal.qkv"; null for no such module. */
STAR_API const char *star_model_module_precision(const star_model *model, const char *module);

/**
 * @brief Make a context.
 * @param threads threads of one run, the caller's included; 0: the cores this process may use.
 */
STAR_API star_status star_context_create(const star_model *model, int32_t threads, star_context **context);

/** @brief Free a context and end its threads; null is allowed. */
STAR_API void star_context_free(star_context *context);

/** @brief Threads of one run. */
STAR_API int32_t star_context_threads(const star_context *context);

/**
 * @brief Begin, or end, to measure where the time of this context's runs goes; what was measured before is dropped.
 *
 * Measuring takes time of its own, and does not change the logits.
 */
STAR_API star_status star_context_profile(star_context *context, int32_t on);

/**
 * @brief Name of stage 0, 1, ... of a run, in no particular order of time; null beyond the last. It lives as long as the
 * library.
 * @param[out] seconds of all threads in this stage, since star_context_profile() began to measure. All stages together are
 *     the runs' time on the clock times the threads.
 */
STAR_API const char *star_context_stage(const star_context *context, int32_t index, double *seconds);

/**
 * @brief Logits of packed clips. A clip's logits are the same bits alone, in any batch and with any number of threads.
 *
 * Allocates only when the rows or clips are more than in any run of this context before.
 * @param features float32 [F, V, C]. @param cu_seqlens [clips + 1]; an empty clip gets the logits of no rows.
 * @param[out] logits float32 [clips, K].
 */
STAR_API star_status star_run(star_context *context, const float *features, const int64_t *cu_seqlens, int64_t clips,
                              float *logits);

/**
 * @brief Features of packed clips by the model's recipe.
 * @param joints float32 [F, V, 3]: x, y, z, or x, y, score; a joint with all-zero position is lost.
 * @param person_lengths [clips, persons], rows of each person of each clip in packing order; 0 for an absent one.
 * @param[out] features float32 [F, V, C], F the sum of person_lengths.
 */
STAR_API star_status star_features(const star_model *model, const float *joints, const int64_t *person_lengths, int64_t clips,
                                   int64_t persons, float *features);

/** @brief One frame's tracked person. */
typedef struct star_person {
    int64_t id;          /**< The tracker's. */
    const float *joints; /**< float32 [V, 3]. */
} star_person;

/** @brief What one hop of a stream shows. */
typedef struct star_stream_result {
    int64_t frame;   /**< Frames pushed so far; the window ends with the last of them. */
    int64_t rows;    /**< Rows of the window's clip; 0 when nobody is tracked in it, and then there is no label. */
    int64_t persons; /**< Persons in the window. */
    int64_t label;   /**< Class of the largest logit, -1 without rows. */
} star_stream_result;

/**
 * @brief Make a stream: every hop frames a prediction equal to star_run on the clip of the last window frames.
 * @param context runs the windows; it belongs to the stream's thread meanwhile. @param window, hop at least 1.
 */
STAR_API star_status star_stream_create(star_context *context, int64_t window, int64_t hop, star_stream **stream);

/** @brief Free a stream; null is allowed. */
STAR_API void star_stream_free(star_stream *stream);

/**
 * @brief Take one frame.
 *
 * A person whose joints are all zero is lost and has no row. A frame with a bad coordinate or an id twice is refused and not
 * taken.
 * @param persons, count tracked persons of the frame; count may be 0.
 * @param[out] result filled when a hop is complete. @param[out] logits float32 [K], written when rows > 0; may be null.
 * @param[out] ready 1 when a hop is complete, else 0.
 */
STAR_API star_status star_stream_push(star_stream *stream, const star_person *persons, int64_t count,
                                      star_stream_result *result, float *logits, int32_t *ready);

/** @brief Ids of the persons of the last result, in the order of their rows. @param[out] ids room for its persons. */
STAR_API star_status star_stream_persons(const star_stream *stream, int64_t *ids);

#ifdef __cplusplus
}
#endif

#endif
