// Float64 reference of a whole STAR model, loop by loop from the equations: the C++ twin of star_edge/models/naive.py.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "model.h"

namespace star::naive {

using Matrix = std::vector<std::vector<double>>;  // [row][channel]

inline double silu(double x) { return x / (1 + std::exp(-x)); }
inline double phi(double x) { return x > 0 ? x + 1 : std::exp(x); }

/// The nearest of the levels -127 to 127 times scale.
inline double quantised(double value, double scale) {
    return std::clamp(std::nearbyint(value / scale), -127.0, 127.0) * scale;
}

/// x W^T + b, or two of them of low rank; with int8, inputs and weights of quantised modules on the levels of their ranges.
inline Matrix linear(const Bundle &bundle, const std::string &path, Matrix x, bool int8) {
    if (bundle.config.ranks.count(path))
        return linear(bundle, path + ".second", linear(bundle, path + ".first", std::move(x), int8), int8);
    Tensor weight = bundle.weights.at(path + ".weight");
    const auto bias = bundle.weights.find(path + ".bias");
    if (int8 && bundle.quantised.count(path)) {
        for (auto &row : x) {
            for (double &value : row) value = quantised(value, bundle.ranges.at(path + ".in") / 127.0);
        }
        for (int64_t o = 0; o < weight.shape[0]; o++) {
            float *row = weight.data.data() + o * weight.shape[1];
            double amax = 0;
            for (int64_t i = 0; i < weight.shape[1]; i++) amax = std::max<double>(amax, std::fabs(row[i]));
            for (int64_t i = 0; i < weight.shape[1] && amax > 0; i++)
                row[i] = static_cast<float>(quantised(row[i], amax / 127.0));
        }
    }
    Matrix out(x.size(), std::vector<double>(weight.shape[0]));
    for (std::size_t row = 0; row < x.size(); row++) {
        for (int64_t o = 0; o < weight.shape[0]; o++) {
            double sum = bias == bundle.weights.end() ? 0 : bias->second.data[o];
            for (int64_t i = 0; i < weight.shape[1]; i++)
                sum += static_cast<double>(weight.data[o * weight.shape[1] + i]) * x[row][i];
            out[row][o] = sum;
        }
    }
    return out;
}

inline Matrix norm(const Bundle &bundle, const std::string &path, const Matrix &a, const Matrix &b) {
    const std::vector<float> &gain = bundle.weights.at(path + ".weight").data, &bias = bundle.weights.at(path + ".bias").data;
    Matrix out = a;
    for (std::size_t row = 0; row < a.size(); row++) {
        const std::size_t dim = a[row].size();
        double mean = 0, variance = 0;
        for (std::size_t c = 0; c < dim; c++) mean += (out[row][c] = a[row][c] + b[row][c]);
        mean /= static_cast<double>(dim);
        for (std::size_t c = 0; c < dim; c++) variance += (out[row][c] - mean) * (out[row][c] - mean);
        for (std::size_t c = 0; c < dim; c++)
            out[row][c] = (out[row][c] - mean) / std::sqrt(variance / static_cast<double>(dim) + 1e-5) * gain[c] + bias[c];
    }
    return out;
}

/// Rows of x and of the results are frame * joints + joint.
inline Matrix spatial_attention(const Config &config, const Matrix &qkv) {
    const int64_t e = config.dim / config.heads;
    Matrix out(qkv.size(), std::vector<double>(config.dim, 0.0));
    for (std::size_t row = 0; row < qkv.size(); row++) {
        const std::size_t frame = row / config.joints * config.joints, joint = row % config.joints;
        for (int64_t head = 0; head < config.heads; head++) {
            std::vector<std::pair<double, std::size_t>> scores;
            double largest = -1e300, total = 0;
            for (const auto &edge : config.edges) {
                if (edge.first != static_cast<int32_t>(joint)) continue;
                double score = 0;
                for (int64_t c = head * e; c < (head + 1) * e; c++)
                    score += qkv[row][c] * qkv[frame + edge.second][config.dim + c];
                scores.push_back({score / std::sqrt(static_cast<double>(e)), frame + edge.second});
                largest = std::max(largest, scores.back().first);
            }
            for (auto &score : scores) total += (score.first = std::exp(score.first - largest));
            for (const auto &score : scores) {
                for (int64_t c = head * e; c < (head + 1) * e; c++)
                    out[row][c] += score.first / total * qkv[score.second][2 * config.dim + c];
            }
        }
    }
    return out;
}

inline Matrix temporal_attention(const Config &config, const Matrix &qkv) {
    const int64_t e = config.dim / config.heads;
    const double scale = std::pow(static_cast<double>(e), -0.25);
    Matrix out(qkv.size(), std::vector<double>(config.dim, 0.0));
    for (int64_t joint = 0; joint < config.joints; joint++) {
        for (int64_t head = 0; head < config.heads; head++) {
            std::vector<double> products(e * e, 0.0), sums(e, 0.0);
            for (std::size_t row = joint; row < qkv.size(); row += config.joints) {
                for (int64_t a = 0; a < e; a++) {
                    const double key = phi(qkv[row][config.dim + head * e + a] * scale);
                    sums[a] += key;
                    for (int64_t b = 0; b < e; b++) products[a * e + b] += key * qkv[row][2 * config.dim + head * e + b];
                }
            }
            for (std::size_t row = joint; row < qkv.size(); row += config.joints) {
                double total = 1e-6;
                for (int64_t a = 0; a < e; a++) {
                    const double query = phi(qkv[row][head * e + a] * scale);
                    total += query * sums[a];
                    for (int64_t b = 0; b < e; b++) out[row][head * e + b] += query * products[a * e + b];
                }
                for (int64_t b = 0; b < e; b++) out[row][head * e + b] /= total;
            }
        }
    }
    return out;
}

inline Matrix encoder(const Bundle &bundle, const std::string &path, const Matrix &x, bool spatial, bool int8) {
    const Matrix qkv = linear(bundle, path + ".qkv", x, int8);
    const Matrix x1 = norm(bundle, path + ".norm1", x,
                           spatial ? spatial_attention(bundle.config, qkv) : temporal_attention(bundle.config, qkv));
    Matrix hidden = linear(bundle, path + ".linear1", x1, int8);
    for (auto &row : hidden) {
        for (double &value : row) value = silu(value);
    }
    return norm(bundle, path + ".norm2", x1, linear(bundle, path + ".linear2", hidden, int8));
}

/// Logits [K] of one clip: features [rows, joints, channels].
inline std::vector<double> star(const Bundle &bundle, const float *features, int64_t rows, bool int8) {
    const Config &config = bundle.config;
    const auto values = [&](const char *name) -> const std::vector<float> & { return bundle.weights.at(name).data; };
    Matrix x(rows * config.joints, std::vector<double>(config.channels));
    for (std::size_t row = 0; row < x.size(); row++) {
        for (int64_t c = 0; c < config.channels; c++) {
            const std::size_t i = row % config.joints * config.channels + c;
            x[row][c] = (features[row * config.channels + c] - values("input_norm.running_mean")[i]) /
                            std::sqrt(values("input_norm.running_var")[i] + 1e-5) * values("input_norm.weight")[i] +
                        values("input_norm.bias")[i];
        }
    }
    x = linear(bundle, "embedding", x, int8);
    for (std::size_t row = 0; row < x.size(); row++) {
        for (int64_t j = 0; j < config.dim; j++) {
            const double phase = std::pow(static_cast<double>(row / config.joints) / 1e4,
                                          static_cast<double>(j) / static_cast<double>(config.dim));
            x[row][j] += j % 2 == 0 ? std::sin(phase) : std::cos(phase);
        }
    }
    for (int64_t layer = 0; layer < config.layers; layer++) {
        const std::string path = "layers." + std::to_string(layer);
        const Matrix spatial = encoder(bundle, path + ".spatial", x, true, int8),
                     temporal = encoder(bundle, path + ".temporal", x, false, int8);
        for (std::size_t row = 0; row < x.size(); row++) {
            for (int64_t c = 0; c < config.dim; c++) x[row][c] = spatial[row][c] + temporal[row][c];
        }
    }
    Matrix pooled(1, std::vector<double>(config.joints * config.dim, 0.0));
    const std::vector<float> &weight = values("context.weight");
    for (int64_t joint = 0; joint < config.joints && rows > 0; joint++) {
        std::vector<double> mean(config.dim, 0.0), context(config.dim, 0.0);
        for (std::size_t row = joint; row < x.size(); row += config.joints) {
            for (int64_t c = 0; c < config.dim; c++) mean[c] += x[row][c] / static_cast<double>(rows);
        }
        for (int64_t c = 0; c < config.dim; c++) {
            for (int64_t a = 0; a < config.dim; a++) context[c] += mean[a] * weight[a * config.dim + c];
            context[c] = std::tanh(context[c]);
        }
        for (std::size_t row = joint; row < x.size(); row += config.joints) {
            double score = 0;
            for (int64_t c = 0; c < config.dim; c++) score += x[row][c] * context[c];
            for (int64_t c = 0; c < config.dim; c++)
                pooled[0][joint * config.dim + c] += x[row][c] / (1 + std::exp(-score)) / static_cast<double>(rows);
        }
    }
    Matrix hidden = linear(bundle, "head.hidden", pooled, int8);
    for (double &value : hidden[0]) value = silu(value);
    return linear(bundle, "head.output", hidden, int8)[0];
}

}  // namespace star::naive
