// Walks the plugins of a library as TensorRT does, without TensorRT: see README.md.
#include <cstdio>
#include <stdexcept>

#include "checks.h"
#include "device.h"

namespace conformance {
namespace {

/// Each op has its creator, and no creator is of another.
std::string problem_of_creators(const Library &library) {
    if (library.creators().size() != kContracts.size())
        return std::to_string(library.creators().size()) + " creators instead of " + std::to_string(kContracts.size());
    for (const Contract &contract : kContracts) library.creator_of(contract);
    return "";
}

int walk(const char *path) {
    Library library(path);
    Report report;
    std::printf("%s, TensorRT %d.%d headers\n", path, NV_TENSORRT_MAJOR, NV_TENSORRT_MINOR);
    report.check("creators", problem_of_creators(library));
    for (const Contract &contract : kContracts) {
        check_creation(library, contract, report);
        check_shapes(library, contract, report);
    }
    const std::string problem = device::problem();
    if (!problem.empty()) {
        report.skip("enqueue", "nothing can run here: " + problem);
        return report.finish();
    }
    std::printf("enqueue on %s\n", device::name().c_str());
    for (const Contract &contract : kContracts) check_results(library, contract, report);
    return report.finish();
}

}  // namespace
}  // namespace conformance

int main(int count, char **arguments) {
    if (count != 2) {
        std::fprintf(stderr, "usage: conformance PATH/libstar_edge_trt.so\n");
        return 2;
    }
    try {
        return conformance::walk(arguments[1]);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "conformance: %s\n", error.what());
        return 1;
    }
}
