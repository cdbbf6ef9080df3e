// Every instruction set and precision that this processor has against the float64 reference, on odd models and clips.
#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <thread>

#include "error.h"
#include "program.h"
#include "random_star.h"

using namespace star;
using namespace star::test;

namespace {

std::vector<star_isa> isas() {
    std::vector<star_isa> found;
    for (const star_isa isa : {STAR_ISA_PORTABLE, STAR_ISA_AVX2, STAR_ISA_AVX512, STAR_ISA_NEON}) {
        try {
            compile(random_bundle(config_of(2, 3, 2, 4, 1, 1, 2), 0), STAR_PRECISION_FP32, isa);
            found.push_back(isa);
        } catch (const Error &error) {
            CHECK(error.status == STAR_UNSUPPORTED);
        }
    }
    return found;
}

void check_same_bits(const Program &program, const Batch &batch) {
    const Config &config = program.config;
    const std::vector<float> expected = run(*program.make_runner(1), config, batch);
    for (const int threads : {2, 3, 8}) {
        const auto runner = program.make_runner(threads);
        for (int i = 0; i < 3; i++) CHECK(run(*runner, config, batch) == expected);
    }
    const auto runner = program.make_runner(2);
    for (int64_t clip = 0; clip < batch.clips(); clip++) {
        Batch alone;
        const int64_t row = config.joints * config.channels;
        alone.features.assign(batch.features.begin() + batch.cu_seqlens[clip] * row,
                              batch.features.begin() + batch.cu_seqlens[clip + 1] * row);
        alone.cu_seqlens.push_back(batch.cu_seqlens[clip + 1] - batch.cu_seqlens[clip]);
        const std::vector<float> logits = run(*runner, config, alone);
        CHECK(std::equal(logits.begin(), logits.end(), expected.begin() + clip * config.classes));
    }
}

}  // namespace

TEST_CASE("every instruction set and precision equals the reference on odd models") {
    const Config configs[] = {config_of(25, 9, 60, 64, 8, 2, 128), config_of(5, 3, 3, 6, 2, 1, 7),
                              config_of(3, 9, 2, 5, 1, 2, 5),      config_of(7, 9, 4, 24, 2, 1, 9),
                              config_of(2, 3, 17, 16, 16, 1, 33),  config_of(4, 9, 5, 40, 8, 1, 20),
                              config_of(3, 3, 2, 128, 2, 1, 16),   config_of(33, 9, 6, 32, 2, 1, 16)};
    for (const star_isa isa : isas()) {
        for (const Config &config : configs) {
            const Bundle bundle = random_bundle(config, 1);
            const Batch batch = random_batch(config, config.joints == 25 ? std::vector<int64_t>{9, 1} : kOddRows, 2);
            for (const auto &[precision, tolerance] : kTolerances) {
                CAPTURE(isa);
                CAPTURE(precision);
                CAPTURE(config.dim);
                const auto runner = compile(bundle, precision, isa)->make_runner(1);
                CHECK(error_of(bundle, batch, run(*runner, config, batch), precision == STAR_PRECISION_INT8) <= tolerance);
            }
        }
    }
}

TEST_CASE("every instruction set and precision equals the reference with layers of low rank and of other widths") {
    const Config odd = config_of(4, 9, 5, 40, 8, 2, 20), star64 = config_of(25, 9, 60, 64, 8, 1, 128);
    Config wide = odd, low = odd, latent = odd;
    wide.widths = thinned(odd).widths;
    low.ranks = {{"layers.1.spatial.qkv", 40}, {"layers.0.temporal.linear2", 3}, {"head.hidden", 20}};
    latent.ranks = {{"layers.1.temporal.qkv", 17}};
    const Config configs[] = {thinned(odd),
                              wide,
                              low,
                              latent,
                              thinned(star64),
                              thinned(config_of(5, 3, 3, 6, 2, 1, 7)),
                              thinned(config_of(3, 9, 2, 5, 1, 2, 5)),
                              thinned(config_of(2, 3, 17, 16, 16, 1, 33)),
                              thinned(config_of(2, 3, 1, 1, 1, 1, 1))};
    for (const star_isa isa : isas()) {
        for (const Config &config : configs) {
            const Bundle bundle = random_bundle(config, 1);
            const Batch batch = random_batch(config, config.joints == 25 ? std::vector<int64_t>{9, 1} : kOddRows, 2);
            for (const auto &[precision, tolerance] : kTolerances) {
                CAPTURE(isa);
                CAPTURE(precision);
                CAPTURE(config.dim);
                CAPTURE(config.ranks.size());
                const auto runner = compile(bundle, precision, isa)->make_runner(2);
                CHECK(error_of(bundle, batch, run(*runner, config, batch), precision == STAR_PRECISION_INT8) <= tolerance);
            }
        }
    }
}

TEST_CASE("each factor is multiplied in its own precision") {
    const Config config = thinned(config_of(5, 9, 4, 16, 4, 2, 8));
    Bundle bundle = random_bundle(config, 3);
    std::erase_if(bundle.quantised, [](const std::string &path) { return path.ends_with(".second") == (path[7] == '0'); });
    const Batch batch = random_batch(config, {30, 1}, 4);
    for (const star_isa isa : isas()) {
        const auto runner = compile(bundle, STAR_PRECISION_INT8, isa)->make_runner(1);
        const std::vector<float> logits = run(*runner, config, batch);
        CHECK(error_of(bundle, batch, logits, true) <= 5e-2);
        CHECK(error_of(bundle, batch, logits, false) > 1e-4);
    }
}

TEST_CASE("a clip's logits are the same bits alone, in any batch and with any number of threads") {
    const Config whole = config_of(5, 9, 4, 16, 4, 2, 8);
    for (const Config &config : {whole, thinned(whole)}) {
        const Bundle bundle = random_bundle(config, 3);
        const Batch batch = random_batch(config, {40, 1, 0, 70, 8, 300}, 4);
        for (const star_isa isa : isas()) {
            for (const auto &[precision, tolerance] : kTolerances) check_same_bits(*compile(bundle, precision, isa), batch);
        }
    }
}

TEST_CASE("what is not finite stays in its own clip") {
    const Config config = config_of(5, 9, 4, 16, 4, 2, 8);
    const Bundle bundle = random_bundle(config, 5);
    Batch batch = random_batch(config, {9, 9, 9}, 6);
    for (const star_isa isa : isas()) {
        const auto runner = compile(bundle, STAR_PRECISION_FP32, isa)->make_runner(1);
        const std::vector<float> expected = run(*runner, config, batch);
        Batch poisoned = batch;
        std::fill(poisoned.features.begin() + 9 * 45, poisoned.features.begin() + 18 * 45,
                  std::numeric_limits<float>::quiet_NaN());
        const std::vector<float> logits = run(*runner, config, poisoned);
        CHECK(std::equal(expected.begin(), expected.begin() + 4, logits.begin()));
        CHECK(std::isnan(logits[4]));
        CHECK(std::equal(expected.begin() + 8, expected.end(), logits.begin() + 8));
        CHECK(run(*runner, config, batch) == expected);
    }
}

TEST_CASE("runners of one program do not disturb each other") {
    const Config config = config_of(5, 9, 4, 16, 4, 2, 8);
    const auto program = compile(random_bundle(config, 7), STAR_PRECISION_FP32, STAR_ISA_AUTO);
    const Batch batch = random_batch(config, {30, 5}, 8);
    const std::vector<float> expected = run(*program->make_runner(1), config, batch);
    std::vector<std::thread> threads;
    std::vector<int> equal(4, 0);
    for (int i = 0; i < 4; i++) {
        threads.emplace_back([&, i] {
            const auto runner = program->make_runner(2);
            for (int j = 0; j < 10; j++) equal[i] += run(*runner, config, batch) == expected;
        });
    }
    for (std::thread &thread : threads) thread.join();
    CHECK(equal == std::vector<int>(4, 10));
}

TEST_CASE("large values neither overflow a softmax nor an exponential") {
    const Config config = config_of(3, 3, 2, 8, 2, 1, 4);
    Bundle bundle = random_bundle(config, 9);
    for (auto &[name, tensor] : bundle.weights) {
        if (name.find("qkv") != std::string::npos || name.find("linear") != std::string::npos) {
            for (float &value : tensor.data) value *= 40;
        }
    }
    const Batch batch = random_batch(config, {17}, 10);
    for (const star_isa isa : isas()) {
        const auto runner = compile(bundle, STAR_PRECISION_FP32, isa)->make_runner(1);
        CHECK(error_of(bundle, batch, run(*runner, config, batch)) <= 1e-4);  // such scores themselves carry only 5 digits
    }
}
