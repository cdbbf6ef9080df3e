#include "../star_layered.h"

#include <cstdint>
#include <initializer_list>

namespace {

constexpr float kTemporalEps = 1e-6f;

size_t round_up(size_t bytes) { return (bytes + 255) / 256 * 256; }

/// What a run has in its workspace. Activations are [frames, V, dim] each, but queries, keys and values [frames, V, 3 dim].
struct Parts {
    void *x, *qkv, *branch, *inner, *hidden, *spatial;
    void *states;         // of the linear attention
    void *pooled, *head;  // [clips, V, dim], [clips, hidden]
};

star_cuda_shape shape_of(const star_cuda_layered &model, int32_t frames, int32_t clips) {
    return {frames, clips, model.joints, model.dim, model.heads};
}

/// Places the parts in the workspace; returns their bytes.
size_t place(const star_cuda_layered &model, const star_cuda_shape &shape, void *workspace, Parts &parts) {
    const size_t element = model.activations == STAR_CUDA_FP32 ? sizeof(float) : sizeof(uint16_t);
    const size_t rows = static_cast<size_t>(shape.frames) * shape.joints * shape.channels * element;
    size_t used = 0;
    const auto take = [&](void *&part, size_t bytes) {
        part = static_cast<char *>(workspace) + used;
        used += round_up(bytes);
    };
    take(parts.x, rows);
    take(parts.qkv, 3 * rows);
    for (void **part : {&parts.branch, &parts.inner, &parts.hidden, &parts.spatial}) take(*part, rows);
    take(parts.states, star_cuda_segmented_linear_attention_workspace(&shape));
    take(parts.pooled, static_cast<size_t>(shape.clips) * shape.joints * shape.channels * element);
    take(parts.head, static_cast<size_t>(shape.clips) * model.hidden * element);
    return used;
}

bool can_run(const star_cuda_layered *model, int32_t frames, int32_t clips) {
    if (model == nullptr || model->layers < 0 || model->hidden < 4 || model->classes < 1 || model->neighbours == nullptr ||
        (model->layers > 0 && model->encoders == nullptr) || model->activations == STAR_CUDA_INT8)
        return false;
    const star_cuda_shape shape = shape_of(*model, frames, clips);
    return star_cuda_segmented_linear_attention_workspace(&shape) > 0;
}

/// Launches one after the other, until one fails.
class Run {
   public:
    Run(const star_cuda_layered &model, const star_cuda_shape &shape, const int32_t *cu_seqlens, const Parts &parts,
        cudaStream_t stream)
        : model_(model),
          shape_(shape),
          format_{model.activations, 0, 0},
          rows_(static_cast<int64_t>(shape.frames) * shape.joints),
          cu_seqlens_(cu_seqlens),
          on_(parts),
          stream_(stream) {}

    cudaError_t operator()(const float *features, float *logits) {
        then([&] {
            return star_cuda_embed(model_.activations, shape_.frames, shape_.joints, model_.inputs, shape_.channels, features,
                                   model_.input_scale, model_.input_shift, model_.embedding, model_.embedding_bias, on_.x,
                                   stream_);
        });
        then([&] { return star_cuda_segmented_positions(&shape_, &format_, on_.x, cu_seqlens_, on_.x, stream_); });
        for (int32_t layer = 0; layer < model_.layers; layer++) {
            run_spatial(model_.encoders[2 * layer]);
            run_temporal(model_.encoders[2 * layer + 1]);
        }
        then([&] {
            return star_cuda_context_attention(&shape_, &format_, STAR_CUDA_FP32, on_.x, model_.context, cu_seqlens_,
                                               on_.pooled, stream_);
        });
        linear(model_.head_hidden, shape_.clips, on_.pooled, model_.activations, on_.head);
        linear(model_.head_output, shape_.clips, on_.head, STAR_CUDA_FP32, logits);
        return error_;
    }

   private:
    template <class Launch>
    void then(const Launch &launch) {
        if (error_ == cudaSuccess) error_ = launch();
    }

    void linear(const star_cuda_linear_layer &layer, int64_t rows, const void *x, star_cuda_type out_type, void *out) {
        then([&] { return star_cuda_linear(&layer, rows, model_.activations, x, out_type, out, stream_); });
    }

    void residual_norm(const void *x, const star_cuda_norm &norm, const void *added, void *out) {
        then([&] {
            return star_cuda_residual_norm(model_.activations, rows_, shape_.channels, x, on_.branch, norm.weight, norm.bias,
                                           added, out, stream_);
        });
    }

    void run_spatial(const star_cuda_encoder &encoder) {
        linear(encoder.qkv, rows_, on_.x, model_.activations, on_.qkv);
        then([&] { return star_cuda_sparse_attention(&shape_, &format_, model_.neighbours, on_.qkv, on_.branch, stream_); });
        finish(encoder, nullptr, on_.spatial);
    }

    void run_temporal(const star_cuda_encoder &encoder) {
        linear(encoder.qkv, rows_, on_.x, model_.activations, on_.qkv);
        then([&] {
            return star_cuda_segmented_linear_attention(&shape_, &format_, kTemporalEps, on_.qkv, cu_seqlens_, on_.states,
                                                        on_.branch, stream_);
        });
        finish(encoder, on_.spatial, on_.x);
    }

    /// What follows an encoder's attention, which is in `branch`.
    void finish(const star_cuda_encoder &encoder, const void *added, void *out) {
        residual_norm(on_.x, encoder.norm1, nullptr, on_.inner);
        linear(encoder.linear1, rows_, on_.inner, model_.activations, on_.hidden);
        linear(encoder.linear2, rows_, on_.hidden, model_.activations, on_.branch);
        residual_norm(on_.inner, encoder.norm2, added, out);
    }

    const star_cuda_layered &model_;
    const star_cuda_shape shape_;
    const star_cuda_format format_;
    const int64_t rows_;
    const int32_t *const cu_seqlens_;
    const Parts on_;
    const cudaStream_t stream_;
    cudaError_t error_ = cudaSuccess;
};

}  // namespace

size_t star_cuda_layered_workspace(const star_cuda_layered *model, int32_t frames, int32_t clips) {
    Parts parts;
    return can_run(model, frames, clips) ? place(*model, shape_of(*model, frames, clips), nullptr, parts) : 0;
}

cudaError_t star_cuda_layered_run(const star_cuda_layered *model, int32_t frames, int32_t clips, const float *features,
                                  const int32_t *cu_seqlens, void *workspace, float *logits, cudaStream_t stream) {
    if (!can_run(model, frames, clips) || (frames > 0 && features == nullptr) || cu_seqlens == nullptr ||
        workspace == nullptr || logits == nullptr)
        return cudaErrorInvalidValue;
    const star_cuda_shape shape = shape_of(*model, frames, clips);
    Parts parts;
    place(*model, shape, workspace, parts);
    return Run(*model, shape, cu_seqlens, parts, stream)(features, logits);
}
