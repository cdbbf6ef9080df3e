// Calls tensorrt_api.h as the C++ engine does, and prints what comes of it.
#include <dlfcn.h>

#include <cstdio>
#include <functional>

#include "error.h"
#include "tensorrt_api.h"

using namespace star;

namespace {

void print(const char *what, const std::vector<int64_t> &shape) {
    std::printf("%s:", what);
    for (const int64_t size : shape) std::printf(" %ld", static_cast<long>(size));
    std::printf("\n");
}

void refused(const char *what, const std::function<void()> &act) {
    try {
        act();
        std::printf("%s: taken\n", what);
    } catch (const Error &error) {
        std::printf("%s: %d, %s\n", what, error.status, error.what());
    }
}

template <class Function>
Function *of_fake(const char *name) {
    return reinterpret_cast<Function *>(dlsym(dlopen(LIBRARY, RTLD_NOW | RTLD_NOLOAD), name));
}

}  // namespace

int main() {
    try {
        std::printf("version: %s\n", installed_tensorrt().version().c_str());
    } catch (const Error &error) {
        std::printf("none: %d, %s\n", error.status, error.what());
        return 0;
    }
    TensorRt &tensorrt = installed_tensorrt();
    refused("bad plan", [&] { tensorrt.load("other", "/plugins.so"); });
    refused("bad plugins", [&] { tensorrt.load("plan", "/none"); });
    const auto engine = tensorrt.load("plan", "/plugins.so");
    std::printf("plugins: %s\n", of_fake<const char *()>("loaded_plugins")());
    std::printf("profiles: %d\n", engine->profiles());
    for (const auto &[name, type] : engine->tensors()) std::printf("%s: %s\n", name.c_str(), type.c_str());
    print("largest features", engine->largest_shape("features", 1));
    print("largest cu_seqlens", engine->largest_shape("cu_seqlens", 1));
    print("logits", engine->shape("logits"));
    float features[8 * 5 * 9] = {1, 2, 3}, logits[3] = {};
    int32_t cu_seqlens[] = {0, 7, 7};
    const std::vector<Binding> bindings = {
        {"features", {8, 5, 9}, features, true}, {"cu_seqlens", {3}, cu_seqlens, true}, {"logits", {2, 3}, logits, false}};
    refused("profile", [&] { engine->make_context(2, bindings, nullptr); });
    refused("shape", [&] { engine->make_context(0, bindings, nullptr); });
    refused("address", [&] { engine->make_context(1, {{"logits", {2, 3}, nullptr, false}}, nullptr); });
    refused("tensor", [&] { engine->make_context(1, {bindings[0]}, nullptr)->enqueue(nullptr); });
    engine->make_context(1, bindings, nullptr)->enqueue(nullptr);
    std::printf("run: %g %g %g\n", logits[0], logits[1], logits[2]);
    std::printf("alive: %d\n", of_fake<int32_t()>("alive_objects")());
}
