// star-run: recognises clips or a stream with a bundle; its models run through the C interface alone.
#include <CLI/CLI.hpp>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <new>

#include "error.h"
#include "report.h"
#include "stream_lines.h"

namespace star::tools {
namespace {

struct Options {
    std::string bundle, stream, precision, isa;
    std::vector<std::string> clips;
    int32_t threads = 0;
    int64_t top = 5, window = 64, hop = 16;
    int64_t bench = 0;  // seconds
    bool json = false, self_test = false, profile = false;
};

const std::map<std::string, star_precision> PRECISIONS = {{"fp32", STAR_PRECISION_FP32},
                                                          {"fp16", STAR_PRECISION_FP16},
                                                          {"bf16", STAR_PRECISION_BF16},
                                                          {"int8", STAR_PRECISION_INT8},
                                                          {"", STAR_PRECISION_DEFAULT}};
const std::map<std::string, star_isa> INSTRUCTION_SETS = {
    {"portable", STAR_ISA_PORTABLE}, {"avx2", STAR_ISA_AVX2},         {"avx512", STAR_ISA_AVX512}, {"neon", STAR_ISA_NEON},
    {"cuda", STAR_ISA_CUDA},         {"tensorrt", STAR_ISA_TENSORRT}, {"", STAR_ISA_AUTO}};
constexpr int64_t MAX_FRAMES = 1'000'000'000;  // of a window
constexpr int64_t MAX_BENCH = 3600;            // seconds; every time is kept

std::string version() {
    return concat("star-run ", star_version(), ", C interface ", star_abi_version(),
                  "\ninstruction sets here: ", star_instruction_sets());
}

void declare(CLI::App &app, Options &options) {
    app.add_option("BUNDLE", options.bundle, "Folder NAME.star, or packed NAME.star.zip")->required();
    app.add_option("CLIP", options.clips, "Recordings to recognise: .skeleton (NTU RGB+D), .npz (packed clips)");
    app.add_option("--precision", options.precision, "Default: the bundle's default precision")
        ->check(CLI::IsMember({"fp32", "fp16", "bf16", "int8"}));
    app.add_option(
           "--isa", options.isa,
           "Kernels; default: the best this processor has; cuda: an NVIDIA GPU; tensorrt: the engine of star-edge build")
        ->check(CLI::IsMember({"portable", "avx2", "avx512", "neon", "cuda", "tensorrt"}));
    app.add_option("--threads", options.threads, "Threads of one run; default: all usable cores")->check(CLI::Range(1, 4096));
    app.add_option("--top", options.top, "Most probable classes to print")
        ->check(CLI::Range(1, 1'000'000))
        ->capture_default_str();
    app.add_flag("--json", options.json, "One JSON document on stdout; everything else on stderr");
    const CLI::Range frames(int64_t{1}, MAX_FRAMES);
    CLI::Option *stream =
        app.add_option("--stream", options.stream, "Read JSON lines of tracked persons from FILE, or from standard input: -");
    stream->type_name("FILE");
    app.add_option("--window", options.window, "Frames a stream is recognised by")
        ->check(frames)
        ->needs(stream)
        ->capture_default_str();
    app.add_option("--hop", options.hop, "Frames between two results of a stream")
        ->check(frames)
        ->needs(stream)
        ->capture_default_str();
    CLI::Option *bench = app.add_flag("--bench{3}", options.bench,
                                      "Repeat one run of all clips for 3 seconds, or --bench=SECONDS, and print its times")
                             ->check(CLI::Range(int64_t{1}, MAX_BENCH));
    app.add_flag("--profile", options.profile, "Then repeat it for as long again, and print where its time goes")
        ->needs(bench);
    app.add_flag("--self-test", options.self_test, "Compare the golden clips' logits with the ones stored in the bundle");
    app.set_version_flag("--version", version());
    app.footer(
        "A stream has one frame a line:\n"
        "  {\"t\": 12.3, \"persons\": [{\"id\": 1, \"joints\": [[x, y, z], ...]}]}\n"
        "and one JSON line comes out every --hop frames, for the last --window frames.\n\n"
        "Exit codes: 0 ok, 1 unexpected, 2 usage or bad input, 3 self-test missed, 4 environment or mismatch.");
}

void check_usage(const Options &options) {
    std::string chosen;
    for (const auto &[name, given] : {std::pair<const char *, bool>{"clips", !options.clips.empty()},
                                      {"--stream", !options.stream.empty()},
                                      {"--self-test", options.self_test}})
        if (given) chosen += (chosen.empty() ? "" : " and ") + std::string(name);
    if (chosen.empty() || chosen.find(" and ") != std::string::npos)
        throw input_error(chosen.empty() ? "say what to recognise" : "choose one thing to do",
                          {.found = chosen.empty() ? "no clip" : chosen,
                           .expected = "clips, --stream or --self-test",
                           .next = "star-run " + options.bundle + " clip.skeleton"});
    if (options.bench > 0 && options.clips.empty())
        throw input_error("--bench repeats clips",
                          {.found = chosen, .next = "star-run " + options.bundle + " clip.skeleton --bench"});
}

/// Text for people: beside the JSON document where there is one.
std::ostream &text(const Options &options) { return options.json ? std::cerr : std::cout; }

void print_document(const Options &options, const OrderedJson &document) {
    if (options.json) std::cout << dump(document, 2) << '\n';
}

std::vector<Recording> read_clips(const Options &options, const Recognizer &recognizer) {
    std::vector<Recording> recordings;
    for (const std::string &clip : options.clips) {
        recordings.push_back(read_recording(clip));
        recognizer.check(recordings.back());
    }
    return recordings;
}

void run_clips(const Options &options, const BundleFiles &bundle, Recognizer &recognizer) {
    const std::vector<Recording> recordings = read_clips(options, recognizer);
    OrderedJson report = report_of(bundle, recognizer);
    report["clips"] = results_of(recognizer, recordings, recognizer.logits(recordings), options.top);
    print_document(options, report);
    print_clips(text(options), report["clips"], options.top);
    const size_t count = report["clips"].size();
    text(options) << count << (count == 1 ? " clip" : " clips") << " recognised with " << recognizer.describe()
                  << "; next: star-run " << options.bundle << " --self-test\n";
}

void run_bench(const Options &options, const BundleFiles &bundle, Recognizer &recognizer) {
    const std::vector<Recording> recordings = read_clips(options, recognizer);
    OrderedJson report = report_of(bundle, recognizer);
    const auto seconds = static_cast<double>(options.bench);
    report["bench"] = figures_of(recognizer.bench(recordings, seconds));
    if (options.profile) report["profile"] = shares_of(recognizer.profile(recordings, seconds));
    print_document(options, report);
    print_figures(text(options), report["bench"]);
    if (options.profile) print_shares(text(options), report["profile"]);
    text(options) << "from features to logits, with " << recognizer.describe() << "; next: star-run " << options.bundle
                  << " --self-test\n";
}

void run_self_test(const Options &options, const BundleFiles &bundle, Recognizer &recognizer) {
    const Golden golden = Golden::parse(bundle.read("golden.npz"), options.bundle + "/golden.npz");
    const SelfTest result = recognizer.self_test(golden, options.bundle);
    OrderedJson report = report_of(bundle, recognizer);
    report["self_test"] = {{"clips", result.clips}, {"error", result.error}, {"tolerance", result.tolerance}};
    print_document(options, report);
    text(options) << "self-test passed: " << result.clips << " golden clips, relative error "
                  << formatted("%.1e", result.error) << " of at most " << formatted("%.0e", result.tolerance) << ", with "
                  << recognizer.describe() << "; next: star-run " << options.bundle << " CLIP\n";
}

void run_stream(const Options &options, Recognizer &recognizer) {
    StreamLines stream(recognizer, options.window, options.hop);
    if (options.stream == "-") {
        stream.run(std::cin, std::cout, "standard input");
    } else {
        std::error_code unreadable;
        std::ifstream file(options.stream, std::ios::binary);
        if (!file || std::filesystem::is_directory(options.stream, unreadable))
            throw input_error("no such file", {.where = options.stream, .expected = "a file of JSON lines, or -"});
        stream.run(file, std::cout, options.stream);
    }
    std::cerr << stream.results() << " results from " << stream.frames() << " frames with " << recognizer.describe()
              << "; next: star-run " << options.bundle << " --self-test\n";
}

void run(const Options &options) {
    check_usage(options);
    const BundleFiles bundle(options.bundle);
    Recognizer recognizer(
        bundle,
        {.precision = PRECISIONS.at(options.precision), .isa = INSTRUCTION_SETS.at(options.isa), .threads = options.threads});
    if (!options.stream.empty())
        run_stream(options, recognizer);
    else if (options.self_test)
        run_self_test(options, bundle, recognizer);
    else if (options.bench > 0)
        run_bench(options, bundle, recognizer);
    else
        run_clips(options, bundle, recognizer);
    if (!std::cout.flush()) throw Failure(Exit::mismatch, "cannot write the results", {.where = "standard output"});
}

int report(Exit exit, const std::string &message) {
    std::cerr << "star-run: " << printable(message) << '\n';
    return static_cast<int>(exit);
}

int main(int argc, char **argv) {
    std::ios::sync_with_stdio(false);
    Options options;
    CLI::App app("Recognises skeleton clips, or a stream of joints, with a bundle of star-edge.", "star-run");
    declare(app, options);
    try {
        app.parse(argc, argv);
        run(options);
        return static_cast<int>(Exit::ok);
    } catch (const CLI::ParseError &error) {
        return app.exit(error) == 0 ? static_cast<int>(Exit::ok) : static_cast<int>(Exit::bad_input);
    } catch (const Failure &failure) {
        return report(failure.exit, failure.what());
    } catch (const Error &error) {
        return report(exit_of(error.status), error.what());
    } catch (const std::bad_alloc &) {
        return report(Exit::mismatch, "out of memory");
    } catch (const std::exception &error) {
        return report(Exit::unexpected, error.what());
    }
}

}  // namespace
}  // namespace star::tools

int main(int argc, char **argv) { return star::tools::main(argc, argv); }
