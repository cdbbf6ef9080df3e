// Streams: each result is the runner's on the clip of the last frames, and memory stays flat.
#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "count_allocations.h"
#include "error.h"
#include "joint_features.h"
#include "stream.h"

using namespace star;

namespace {

constexpr int64_t kJoints = 3, kClasses = 2;

FeatureRecipe chain() { return {{0, 0, 1}, 0, 3, 9, true}; }

/// Keeps what it was given; the logits are its rows and their negative.
class Recorder : public Runner {
   public:
    int threads() const override { return 1; }
    void run(const float *features, const int64_t *cu_seqlens, int64_t clips, float *logits) override {
        CHECK(clips == 1);
        given.assign(features, features + cu_seqlens[1] * kJoints * 9);
        const auto rows = static_cast<float>(cu_seqlens[1]);
        logits[0] = -rows;
        logits[1] = rows;
    }
    std::vector<float> given;
};

struct Tracked {
    int64_t id;
    std::vector<float> joints;
};
using Frame = std::vector<Tracked>;

bool is_lost(const Tracked &tracked) {
    return std::all_of(tracked.joints.begin(), tracked.joints.end(), [](float value) { return value == 0; });
}

/// The clip of a list of frames, from the definition: persons in order of their first tracked row.
struct Clip {
    std::vector<int64_t> ids, lengths;
    std::vector<float> joints;

    Clip(std::vector<Frame>::const_iterator begin, std::vector<Frame>::const_iterator end) {
        for (auto frame = begin; frame != end; ++frame) {
            for (const Tracked &tracked : *frame)
                if (!is_lost(tracked) && std::find(ids.begin(), ids.end(), tracked.id) == ids.end()) ids.push_back(tracked.id);
        }
        for (const int64_t id : ids) {
            lengths.push_back(0);
            for (auto frame = begin; frame != end; ++frame) {
                for (const Tracked &tracked : *frame) {
                    if (tracked.id != id || is_lost(tracked)) continue;
                    joints.insert(joints.end(), tracked.joints.begin(), tracked.joints.end());
                    lengths.back()++;
                }
            }
        }
    }
    int64_t rows() const { return static_cast<int64_t>(joints.size()) / (kJoints * 3); }
    std::vector<float> features() const {
        std::vector<float> made(joints.size() * 3);
        compute_features(chain(), joints.data(), lengths.data(), 1, static_cast<int64_t>(lengths.size()), made.data());
        return made;
    }
};

/// A stream and the runner it was given.
struct Watched {
    Watched(int64_t window, int64_t hop)
        : recorder(std::make_shared<Recorder>()), stream(chain(), kClasses, recorder, window, hop) {}
    bool push(const Frame &frame) {
        std::vector<star_person> persons;
        for (const Tracked &tracked : frame) persons.push_back({tracked.id, tracked.joints.data()});
        return stream.push(persons.data(), static_cast<int64_t>(persons.size()));
    }
    std::shared_ptr<Recorder> recorder;
    Stream stream;
};

Tracked person(int64_t id, float value) { return {id, std::vector<float>(kJoints * 3, value)}; }

Frame random_frame(std::mt19937 &random) {
    std::normal_distribution<float> normal;
    Frame frame;
    for (int64_t id = 0; id < 5; id++) {
        if (!std::bernoulli_distribution(0.4)(random)) continue;
        Tracked tracked = person(id * 1000 - 2000, 0);
        if (std::bernoulli_distribution(0.8)(random))
            for (float &value : tracked.joints) value = normal(random);
        frame.push_back(std::move(tracked));
    }
    std::shuffle(frame.begin(), frame.end(), random);
    return frame;
}

std::string refusal_of(Watched &watched, const Frame &frame) {
    try {
        watched.push(frame);
    } catch (const Error &error) {
        CHECK(error.status == STAR_INVALID_ARGUMENT);
        return error.what();
    }
    return "";
}

}  // namespace

TEST_CASE("each result equals the runner's on the window's clip") {
    std::mt19937 random(0);
    for (int example = 0; example < 200; example++) {
        const int64_t window = std::uniform_int_distribution<int64_t>(1, 12)(random),
                      hop = std::uniform_int_distribution<int64_t>(1, 7)(random);
        Watched watched(window, hop);
        std::vector<Frame> frames;
        for (int64_t count = 1; count <= 40; count++) {
            frames.push_back(random_frame(random));
            REQUIRE(watched.push(frames.back()) == (count % hop == 0));
            if (count % hop != 0) continue;
            const Clip expected(frames.end() - std::min(count, window), frames.end());
            const star_stream_result &result = watched.stream.result();
            REQUIRE(result.frame == count);
            REQUIRE(result.rows == expected.rows());
            REQUIRE(result.persons == static_cast<int64_t>(expected.ids.size()));
            REQUIRE(watched.stream.ids() == expected.ids);
            REQUIRE(result.label == (expected.rows() > 0 ? 1 : -1));
            if (expected.rows() == 0) continue;
            REQUIRE(watched.recorder->given == expected.features());
            REQUIRE(watched.stream.logits()[1] == static_cast<float>(expected.rows()));
        }
    }
}

TEST_CASE("a person who leaves the window is forgotten") {
    Watched watched(4, 1);
    watched.push({person(1, 1), person(2, 1)});
    for (int step = 0; step < 3; step++) {
        watched.push({person(2, 1)});
        CHECK(watched.stream.ids() == std::vector<int64_t>{1, 2});
    }
    watched.push({person(1, 1), person(2, 1)});
    CHECK(watched.stream.ids() == std::vector<int64_t>{2, 1});
}

TEST_CASE("nobody there") {
    Watched watched(2, 1);
    CHECK(watched.push({person(1, 1)}));
    CHECK(watched.stream.result().rows == 1);
    CHECK(watched.push({}));
    CHECK(watched.stream.result().rows == 1);
    CHECK(watched.push({person(1, 0)}));
    CHECK(watched.stream.result().frame == 3);
    CHECK(watched.stream.result().rows == 0);
    CHECK(watched.stream.result().label == -1);
    CHECK(watched.stream.ids().empty());
}

TEST_CASE("a bad frame is refused and not taken") {
    Watched watched(4, 2);
    watched.push({person(1, 1)});
    CHECK(refusal_of(watched, {person(7, 1), person(3, 1), person(7, 2)}).find("id 7") != std::string::npos);
    CHECK(refusal_of(watched, {person(7, 0), person(7, 0)}).find("twice") != std::string::npos);  // lost, and still twice
    Tracked bad = person(5, 1);
    bad.joints[7] = std::numeric_limits<float>::infinity();
    CHECK(refusal_of(watched, {person(1, 1), bad}).find("person 5; found: joint 2") != std::string::npos);
    CHECK(watched.push({person(1, 1)}));
    CHECK(watched.stream.result().frame == 2);
    CHECK(watched.stream.result().rows == 2);
}

TEST_CASE("a window longer than any stream starts small") {
    Watched watched(std::numeric_limits<int64_t>::max(), 3000);
    for (int step = 0; step < 2999; step++) watched.push({person(1, 1), person(2, 1)});
    CHECK(watched.push({}));
    CHECK(watched.stream.result().rows == 2 * 2999);
}

TEST_CASE("a crowd in one frame is taken, and its memory kept for the next") {
    Watched watched(2, 1);
    Frame crowd;
    for (int64_t id = 0; id < 3000; id++) crowd.push_back(person(-id, 1));
    CHECK(watched.push(crowd));
    CHECK(watched.stream.result().persons == 3000);
    CHECK(watched.stream.ids().back() == -2999);
}

TEST_CASE("a million frames allocate nothing, whatever ids come") {
    Watched watched(64, 160);
    const std::vector<float> joints(kJoints * 3, 1.0f);
    const auto push = [&](int64_t first, int64_t count) {
        for (int64_t step = first; step < first + count; step++) {
            const star_person persons[] = {{step, joints.data()}, {-step - 1, joints.data()}};  // nobody is ever seen twice
            watched.stream.push(persons, 2);
        }
    };
    push(0, 1000);
    const int64_t before = test::allocations;
    push(1000, 1000000);
    CHECK(test::allocations == before);
    CHECK(watched.stream.result().rows == 128);
}
