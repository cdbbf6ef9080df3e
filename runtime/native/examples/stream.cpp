// Recognises a stream with handles that free themselves: stream BUNDLE
//
// One person raises a joint for ten seconds at 30 frames a second; every 16 frames the last 64 are recognised.
#include <cmath>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <vector>

#include "star_edge/star.h"

template <auto free>
struct Free {
    template <class Handle>
    void operator()(Handle *handle) const {
        free(handle);
    }
};
using Model = std::unique_ptr<star_model, Free<star_model_free>>;
using Context = std::unique_ptr<star_context, Free<star_context_free>>;
using Stream = std::unique_ptr<star_stream, Free<star_stream_free>>;

static void check(star_status status) {
    if (status != STAR_OK) throw std::runtime_error(star_last_error());
}

static Model load(const char *path) {
    star_model *model = nullptr;
    check(star_model_load(path, STAR_PRECISION_DEFAULT, STAR_ISA_AUTO, &model));
    return Model(model);
}

static Context make_context(const Model &model) {
    star_context *context = nullptr;
    check(star_context_create(model.get(), 0, &context));
    return Context(context);
}

static Stream make_stream(const Context &context) {
    star_stream *stream = nullptr;
    check(star_stream_create(context.get(), 64, 16, &stream));
    return Stream(stream);
}

static void recognise(const char *path) {
    const Model model = load(path);
    star_model_info info;
    check(star_model_describe(model.get(), &info));
    const Context context = make_context(model);
    const Stream stream = make_stream(context);
    std::vector<float> joints(static_cast<size_t>(info.joints) * 3, 0.5f);
    for (int frame = 0; frame < 300; ++frame) {
        joints[1] = std::sin(static_cast<float>(frame) / 30);  // y of the first joint
        const star_person person = {7, joints.data()};
        star_stream_result result;
        int32_t ready = 0;
        check(star_stream_push(stream.get(), &person, 1, &result, nullptr, &ready));
        if (ready)
            std::printf("frame %lld: %s\n", static_cast<long long>(result.frame),
                        star_model_class_name(model.get(), result.label));
    }
}

int main(int argc, char **argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: stream BUNDLE\n");
        return 2;
    }
    try {
        recognise(argv[1]);
        return 0;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
