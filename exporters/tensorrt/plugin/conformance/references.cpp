#include "references.h"

#include <algorithm>
#include <cmath>

namespace conformance {
namespace {

double phi(double u) { return u > 0 ? u + 1 : std::exp(u); }

}  // namespace

Values positions(const Dimensions &size, const Values &x, const std::vector<int32_t> &cu_seqlens) {
    Values out = x;
    for (size_t clip = 0; clip + 1 < cu_seqlens.size(); clip++)
        for (int64_t frame = cu_seqlens[clip]; frame < cu_seqlens[clip + 1]; frame++)
            for (int64_t joint = 0; joint < size.joints; joint++)
                for (int64_t j = 0; j < size.channels; j++) {
                    const double phase = std::pow(static_cast<double>(frame - cu_seqlens[clip]) / 1e4,
                                                  static_cast<double>(j) / static_cast<double>(size.channels));
                    out[static_cast<size_t>((frame * size.joints + joint) * size.channels + j)] +=
                        j % 2 == 0 ? std::sin(phase) : std::cos(phase);
                }
    return out;
}

Values sparse_attention(const Dimensions &size, const Values &qkv, const std::vector<int32_t> &edges) {
    const int64_t width = size.channels / size.heads;
    const auto at = [&](int64_t frame, int64_t joint, int64_t part, int64_t channel) {
        return qkv[static_cast<size_t>(((frame * size.joints + joint) * 3 + part) * size.channels + channel)];
    };
    Values out(static_cast<size_t>(size.frames * size.joints * size.channels));
    for (int64_t frame = 0; frame < size.frames; frame++)
        for (int64_t joint = 0; joint < size.joints; joint++)
            for (int64_t head = 0; head < size.heads; head++) {
                Values scores, sums(static_cast<size_t>(width));
                std::vector<int64_t> neighbours;
                for (size_t i = 0; i < edges.size(); i += 2)
                    if (edges[i] == joint) neighbours.push_back(edges[i + 1]);
                for (const int64_t other : neighbours) {
                    double score = 0;
                    for (int64_t c = head * width; c < (head + 1) * width; c++)
                        score += at(frame, joint, 0, c) * at(frame, other, 1, c);
                    scores.push_back(score / std::sqrt(static_cast<double>(width)));
                }
                const double largest = *std::max_element(scores.begin(), scores.end());
                double total = 0;
                for (double &score : scores) total += score = std::exp(score - largest);
                for (int64_t c = 0; c < width; c++) {
                    double sum = 0;
                    for (size_t i = 0; i < scores.size(); i++)
                        sum += scores[i] / total * at(frame, neighbours[i], 2, head * width + c);
                    out[static_cast<size_t>((frame * size.joints + joint) * size.channels + head * width + c)] = sum;
                }
            }
    return out;
}

Values linear_attention(const Dimensions &size, const Values &qkv, const std::vector<int32_t> &cu_seqlens, double eps) {
    const int64_t width = size.channels / size.heads;
    const double scale = std::pow(static_cast<double>(width), -0.25);
    const auto at = [&](int64_t frame, int64_t joint, int64_t part, int64_t channel) {
        return qkv[static_cast<size_t>(((frame * size.joints + joint) * 3 + part) * size.channels + channel)];
    };
    Values out(static_cast<size_t>(size.frames * size.joints * size.channels));
    for (size_t clip = 0; clip + 1 < cu_seqlens.size(); clip++)
        for (int64_t joint = 0; joint < size.joints; joint++)
            for (int64_t head = 0; head < size.heads; head++) {
                Values u(static_cast<size_t>(width * width)), z(static_cast<size_t>(width));
                const int64_t first = head * width;
                for (int64_t frame = cu_seqlens[clip]; frame < cu_seqlens[clip + 1]; frame++)
                    for (int64_t a = 0; a < width; a++) {
                        const double key = phi(at(frame, joint, 1, first + a) * scale);
                        z[static_cast<size_t>(a)] += key;
                        for (int64_t b = 0; b < width; b++)
                            u[static_cast<size_t>(a * width + b)] += key * at(frame, joint, 2, first + b);
                    }
                for (int64_t frame = cu_seqlens[clip]; frame < cu_seqlens[clip + 1]; frame++) {
                    double total = eps;
                    Values sums(static_cast<size_t>(width));
                    for (int64_t a = 0; a < width; a++) {
                        const double query = phi(at(frame, joint, 0, first + a) * scale);
                        total += query * z[static_cast<size_t>(a)];
                        for (int64_t b = 0; b < width; b++)
                            sums[static_cast<size_t>(b)] += query * u[static_cast<size_t>(a * width + b)];
                    }
                    for (int64_t b = 0; b < width; b++)
                        out[static_cast<size_t>((frame * size.joints + joint) * size.channels + first + b)] =
                            sums[static_cast<size_t>(b)] / total;
                }
            }
    return out;
}

Values context_attention(const Dimensions &size, const Values &x, const Values &weight,
                         const std::vector<int32_t> &cu_seqlens) {
    const int64_t channels = size.channels;
    Values out((cu_seqlens.size() - 1) * static_cast<size_t>(size.joints * channels));
    for (size_t clip = 0; clip + 1 < cu_seqlens.size(); clip++)
        for (int64_t joint = 0; joint < size.joints; joint++) {
            const auto frames = static_cast<double>(cu_seqlens[clip + 1] - cu_seqlens[clip]);
            const auto row = [&](int64_t frame) { return &x[static_cast<size_t>((frame * size.joints + joint) * channels)]; };
            Values mean(static_cast<size_t>(channels)), context(static_cast<size_t>(channels));
            for (int64_t frame = cu_seqlens[clip]; frame < cu_seqlens[clip + 1]; frame++)
                for (int64_t c = 0; c < channels; c++) mean[static_cast<size_t>(c)] += row(frame)[c] / frames;
            for (int64_t c = 0; c < channels; c++) {
                double sum = 0;
                for (int64_t i = 0; i < channels; i++)
                    sum += mean[static_cast<size_t>(i)] * weight[static_cast<size_t>(i * channels + c)];
                context[static_cast<size_t>(c)] = std::tanh(sum);
            }
            double *to =
                &out[(clip * static_cast<size_t>(size.joints) + static_cast<size_t>(joint)) * static_cast<size_t>(channels)];
            for (int64_t frame = cu_seqlens[clip]; frame < cu_seqlens[clip + 1]; frame++) {
                double score = 0;
                for (int64_t c = 0; c < channels; c++) score += row(frame)[c] * context[static_cast<size_t>(c)];
                const double gate = 1 / (1 + std::exp(-score));
                for (int64_t c = 0; c < channels; c++) to[c] += gate * row(frame)[c] / frames;
            }
        }
    return out;
}

}  // namespace conformance
