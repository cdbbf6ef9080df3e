// StarSegmentedPositions: a thread takes four channels of a frame, for eight joints, since the positions of all joints are the
// same.
#include "shapes.h"

namespace {

constexpr int kThreads = 256, kJoints = 8;

/// Within one turn of zero, where the processor's own sine and cosine are right to 5e-7.
__device__ float within_turn(float phase) {
    const float turns = rintf(phase * 0.159154943f);
    return fmaf(turns, 1.7484556e-7f, fmaf(turns, -6.28318548f, phase));  // 2 pi is the first number less the second
}

/// sin or cos of (p / 10^4)^(j / C) for even and odd j, 0^0 = 1 (STAR, section 3.3, as the authors' code has it).
__device__ float4 positions(int position, int channel, int channels) {
    const float log_position = log2f(static_cast<float>(position) / 1e4f);  // -inf for the first
    const auto phase = [=](int j) {
        return within_turn(j == 0 ? 1.0f : exp2f(log_position * static_cast<float>(j) / static_cast<float>(channels)));
    };
    return make_float4(__sinf(phase(channel)), __cosf(phase(channel + 1)), __sinf(phase(channel + 2)),
                       __cosf(phase(channel + 3)));
}

template <class Element>
__global__ void __launch_bounds__(kThreads, 1) positions_kernel(star_cuda_shape shape, star_cuda_format format,
                                                                const Element *x, const int32_t *cu_seqlens, Element *out) {
    const int quads = shape.channels / 4, item = blockIdx.x * kThreads + threadIdx.x;
    const int frame = item / quads, channel = item % quads * 4;
    if (frame >= min(cu_seqlens[shape.clips], shape.frames)) return;
    const int clip = clip_at(frame, cu_seqlens, shape.clips, 1, 0);
    const float4 added = positions(frame - cu_seqlens[clip], channel, shape.channels);
    const int first = blockIdx.y * kJoints, last = min(first + kJoints, shape.joints);
    for (int joint = first; joint < last; joint++) {
        const size_t at = (static_cast<size_t>(frame) * shape.joints + joint) * shape.channels + channel;
        const float4 value = load(x + at, format.input_scale);
        store(out + at, make_float4(value.x + added.x, value.y + added.y, value.z + added.z, value.w + added.w),
              format.output_scale);
    }
}

}  // namespace

cudaError_t star_cuda_segmented_positions(const star_cuda_shape *shape, const star_cuda_format *format, const void *x,
                                          const int32_t *cu_seqlens, void *out, cudaStream_t stream) {
    if (shape == nullptr || format == nullptr || !can_run(*shape) || !can_store(*format)) return cudaErrorInvalidValue;
    if (shape->frames == 0) return cudaSuccess;
    if (x == nullptr || cu_seqlens == nullptr || out == nullptr) return cudaErrorInvalidValue;
    const dim3 grid(blocks_of(static_cast<int64_t>(shape->frames) * (shape->channels / 4), kThreads),
                    blocks_of(shape->joints, kJoints));
    return for_type(format->type, [&](auto element) {
        using Element = decltype(element);
        return launch(positions_kernel<Element>, grid, kThreads, 0, stream, *shape, *format, static_cast<const Element *>(x),
                      cu_seqlens, static_cast<Element *>(out));
    });
}
