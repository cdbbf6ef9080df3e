// The GPU's runner, in the emulator, against the float64 reference: precisions, odd batches, refusals.
#include <doctest/doctest.h>

#include <cmath>

#include "cuda_program.h"
#include "error.h"
#include "half.h"
#include "random_star.h"
#include "streams.h"

using namespace star;
using namespace star::test;

namespace {

const star_precision kPrecisions[] = {STAR_PRECISION_FP32, STAR_PRECISION_FP16, STAR_PRECISION_INT8};

/// As runtime/tolerances.py has them. Between int8 products activations are FP16, so that more of them fall to another level
/// than in the reference, which keeps float64: the processor's tighter bound does not hold.
double tolerance_of(star_precision precision) {
    return precision == STAR_PRECISION_FP32 ? 1e-5 : precision == STAR_PRECISION_FP16 ? 5e-3 : 1e-1;
}

void check_refused(const Config &config, star_precision precision, const std::string &what) {
    try {
        compile_for_cuda(random_bundle(config, 1), precision);
        FAIL("was not refused");
    } catch (const Error &error) {
        CHECK(error.status == STAR_UNSUPPORTED);
        CAPTURE(error.what());
        CHECK(std::string(error.what()).find(what) != std::string::npos);
    }
}

}  // namespace

TEST_CASE("every precision equals the reference on odd models and clips") {
    const Config configs[] = {config_of(25, 9, 60, 64, 8, 2, 128), config_of(5, 3, 3, 8, 2, 1, 8),
                              config_of(7, 9, 4, 24, 3, 1, 12),    config_of(2, 3, 17, 16, 1, 1, 36),
                              config_of(3, 3, 2, 128, 2, 1, 16),   config_of(33, 9, 6, 32, 2, 1, 16)};
    for (const Config &config : configs) {
        const Bundle bundle = random_bundle(config, 1);
        const Batch batch = random_batch(config, config.joints < 25 ? kOddRows : std::vector<int64_t>{4, 0, 1}, 2);
        for (const star_precision precision : kPrecisions) {
            CAPTURE(precision);
            CAPTURE(config.dim);
            const auto runner = compile_for_cuda(bundle, precision)->make_runner(1);
            CHECK(error_of(bundle, batch, run(*runner, config, batch), precision == STAR_PRECISION_INT8) <=
                  tolerance_of(precision));
        }
    }
}

TEST_CASE("a STAR-64 in FP16 has kernels of its own, other widths and precisions go layer by layer") {
    const auto is_fused = [](int64_t dim, star_precision precision) {
        const auto program = compile_for_cuda(random_bundle(config_of(5, 9, 4, dim, 8, 1, 8), 1), precision);
        return static_cast<const CudaProgram &>(*program).layered() == nullptr;
    };
    CHECK(is_fused(64, STAR_PRECISION_FP16));
    CHECK_FALSE(is_fused(64, STAR_PRECISION_FP32));
    CHECK_FALSE(is_fused(64, STAR_PRECISION_INT8));
    CHECK_FALSE(is_fused(128, STAR_PRECISION_FP16));
}

TEST_CASE("float16 is rounded to the nearest, ties to even") {
    for (uint32_t bits = 0; bits < 0x7c00; bits++) {
        const auto half = static_cast<uint16_t>(bits);
        const float value = half_value(half), next = half_value(static_cast<uint16_t>(bits + 1));
        REQUIRE(half_bits(value) == half);
        REQUIRE(half_bits(-value) == (half | 0x8000));
        const float middle = next == INFINITY ? 65520.0f : (value + next) / 2;
        REQUIRE(half_bits(middle) == half + half % 2);
        REQUIRE(half_bits(std::nextafter(middle, 0.0f)) == half);
        REQUIRE(half_bits(std::nextafter(middle, INFINITY)) == half + 1);
    }
    CHECK(half_bits(INFINITY) == 0x7c00);
    CHECK(half_bits(3e38f) == 0x7c00);
    CHECK(std::isnan(half_value(half_bits(NAN))));
    CHECK(half_value(0x3c00) == 1.0f);
    CHECK(half_value(0x7c00) == INFINITY);
}

TEST_CASE("int8 leaves in float what the bundle does not quantise") {
    const Config config = config_of(5, 9, 4, 16, 4, 2, 8);
    Bundle bundle = random_bundle(config, 3);
    bundle.quantised = {"layers.0.spatial.linear1"};
    const Batch batch = random_batch(config, {30}, 4);
    const auto runner = compile_for_cuda(bundle, STAR_PRECISION_INT8)->make_runner(1);
    const std::vector<float> logits = run(*runner, config, batch);
    CHECK(error_of(bundle, batch, logits, true) <= tolerance_of(STAR_PRECISION_FP16));
    CHECK(error_of(bundle, batch, logits, false) > 1e-5);
}

TEST_CASE("a clip's logits are the same bits alone, in any batch and in a runner that has seen others") {
    const Config config = config_of(5, 9, 4, 16, 4, 2, 8);
    const Bundle bundle = random_bundle(config, 5);
    const Batch batch = random_batch(config, {40, 1, 0, 70, 8, 130}, 6);
    const int64_t row = config.joints * config.channels;
    for (const star_precision precision : kPrecisions) {
        const auto program = compile_for_cuda(bundle, precision);
        const auto runner = program->make_runner(1), other = program->make_runner(1);
        const std::vector<float> expected = run(*runner, config, batch);
        CHECK(run(*other, config, batch) == expected);
        for (int64_t clip = 0; clip < batch.clips(); clip++) {
            Batch alone;
            alone.features.assign(batch.features.begin() + batch.cu_seqlens[clip] * row,
                                  batch.features.begin() + batch.cu_seqlens[clip + 1] * row);
            alone.cu_seqlens.push_back(batch.cu_seqlens[clip + 1] - batch.cu_seqlens[clip]);
            const std::vector<float> logits = run(*runner, config, alone);
            CHECK(std::equal(logits.begin(), logits.end(), expected.begin() + clip * config.classes));
        }
    }
}

TEST_CASE("a size that comes again runs as a CUDA graph, until memory moves") {
    const Config config = config_of(5, 9, 4, 16, 4, 2, 8), wide = config_of(5, 9, 4, 64, 8, 1, 8);
    for (const bool integrated : {false, true}) {
        emulator::set_integrated(integrated);
        for (const Config &of : {config, wide}) {
            const Bundle bundle = random_bundle(of, 5);
            const auto program = compile_for_cuda(bundle, STAR_PRECISION_FP16);
            const auto runner = program->make_runner(1);
            const auto check = [&](const Batch &batch, int captures, int launches) {
                const emulator::Counts before = emulator::counts();
                const std::vector<float> logits = run(*runner, of, batch);
                const emulator::Counts &after = emulator::counts();
                CHECK(after.captures - before.captures == captures);
                CHECK(after.graph_launches - before.graph_launches == launches);
                CHECK(after.copies - before.copies == (integrated ? 0 : 3));
                CHECK(logits == run(*program->make_runner(1), of, batch));
            };
            const Batch small = random_batch(of, {3, 6}, 1), other = random_batch(of, {1, 8}, 2),
                        large = random_batch(of, {20}, 3);
            check(small, 0, 0);
            check(small, 1, 1);
            check(other, 0, 1);  // as many rows and clips, though other ones
            check(large, 0, 0);
            check(small, 0, 0);  // its graph had the addresses of before
            check(small, 1, 1);
            check(large, 1, 1);
            check(small, 0, 1);
            for (int64_t rows = 0; rows < 15; rows++) run(*runner, of, random_batch(of, {rows}, 4));
            check(small, 0, 1);
            run(*runner, of, random_batch(of, {15}, 4));
            check(small, 0, 1);
            check(large, 0, 0);  // forgotten
        }
    }
    emulator::set_integrated(false);
}

TEST_CASE("time on the GPU is told apart from the whole") {
    const Config config = config_of(5, 9, 4, 16, 4, 2, 8);
    const auto runner = compile_for_cuda(random_bundle(config, 5), STAR_PRECISION_FP32)->make_runner(1);
    const Batch batch = random_batch(config, {30}, 1);
    double gpu = -1, rest = -1;
    runner->profile(true);
    for (int i = 0; i < 3; i++) run(*runner, config, batch);
    CHECK(runner->stage(0, gpu) == std::string("kernels on the GPU"));
    CHECK(runner->stage(1, rest) == std::string("copies and waiting"));
    CHECK(gpu > 0);
    CHECK(rest > 0);
    CHECK(runner->stage(2, rest) == nullptr);
}

TEST_CASE("clips without rows, alone and in a runner's first call") {
    const Config config = config_of(5, 9, 4, 16, 4, 2, 8);
    const Batch batch = random_batch(config, {0, 0}, 8);
    const Config fused = config_of(5, 9, 4, 64, 8, 1, 8);
    for (const star_precision precision : kPrecisions) {
        for (const Config &of : {config, fused}) {
            const Bundle made = random_bundle(of, 7);
            const auto runner = compile_for_cuda(made, precision)->make_runner(1);
            CHECK(error_of(made, batch, run(*runner, of, batch), precision == STAR_PRECISION_INT8) <= tolerance_of(precision));
        }
    }
}

TEST_CASE("what is not finite stays in its own clip") {
    const Config config = config_of(5, 9, 4, 16, 4, 2, 8);
    const auto runner = compile_for_cuda(random_bundle(config, 9), STAR_PRECISION_FP16)->make_runner(1);
    Batch batch = random_batch(config, {9, 9, 9}, 10);
    const std::vector<float> expected = run(*runner, config, batch);
    std::fill(batch.features.begin() + 9 * 45, batch.features.begin() + 18 * 45, std::numeric_limits<float>::quiet_NaN());
    const std::vector<float> logits = run(*runner, config, batch);
    CHECK(std::equal(expected.begin(), expected.begin() + 4, logits.begin()));
    CHECK(std::isnan(logits[4]));
    CHECK(std::equal(expected.begin() + 8, expected.end(), logits.begin() + 8));
}

TEST_CASE("a program says what it computes in") {
    const auto program = compile_for_cuda(random_bundle(config_of(5, 9, 4, 16, 4, 1, 8), 1), STAR_PRECISION_INT8);
    CHECK(program->isa == STAR_ISA_CUDA);
    CHECK(program->products == "cuda mma int8");
    CHECK(program->storage == "int8");
    CHECK(program->compute == "int8");
    CHECK(cuda_products(STAR_PRECISION_BF16) == nullptr);
}

TEST_CASE("what there are no kernels for is refused") {
    check_refused(config_of(5, 9, 4, 6, 2, 1, 8), STAR_PRECISION_FP32, "width of a head; found: 3");
    check_refused(config_of(65, 3, 2, 8, 2, 1, 8), STAR_PRECISION_FP32, "joints; found: 65");
    check_refused(config_of(2, 3, 2, 1088, 17, 1, 8), STAR_PRECISION_FP32, "width; found: 1088");
    check_refused(config_of(5, 9, 4, 16, 4, 1, 7), STAR_PRECISION_FP32, "hidden layer; found: 7");
    Config low = config_of(5, 9, 4, 16, 4, 1, 8), wide = low;
    low.ranks["layers.0.spatial.qkv"] = 3;
    wide.widths["layers.0.spatial.linear1"] = 8;
    check_refused(low, STAR_PRECISION_FP32, "low rank; found: 1; expected: none; next: run it on the processor");
    check_refused(wide, STAR_PRECISION_FP32, "FFN of another width; found: 1");
    check_refused(config_of(5, 9, 4, 16, 4, 1, 8), STAR_PRECISION_BF16, "precision; found: bf16");
    const Config config = config_of(5, 9, 4, 16, 4, 1, 8);
    const auto runner = compile_for_cuda(random_bundle(config, 1), STAR_PRECISION_FP32)->make_runner(1);
    const int64_t cu_seqlens[] = {0, int64_t{1} << 31};
    float logits[4];
    CHECK_THROWS_WITH_AS(runner->run(nullptr, cu_seqlens, 1, logits), doctest::Contains("more rows in one call"), Error);
    const std::vector<int64_t> empty(65537);
    CHECK_THROWS_WITH_AS(runner->run(nullptr, empty.data(), 65536, logits), doctest::Contains("more clips in one call"),
                         Error);
}
