// Features against a float64 reference written joint by joint from the definition, as tests/runtime/test_features.py does.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "joint_features.h"

using namespace star;

namespace {

/// Packed clips: joints [F, V, 3], person_lengths [clips, persons].
struct Clips {
    std::vector<float> joints;
    std::vector<int64_t> person_lengths;
    int64_t persons = 0;
    int64_t count() const { return static_cast<int64_t>(person_lengths.size()) / persons; }
    int64_t rows() const { return std::accumulate(person_lengths.begin(), person_lengths.end(), int64_t{0}); }
};

/// Joints hang in a chain from a root in its middle.
FeatureRecipe recipe_of(int32_t joints, int32_t dims, int32_t channels, bool centre) {
    FeatureRecipe recipe{{}, joints / 2, dims, channels, centre};
    for (int32_t joint = 0; joint < joints; joint++)
        recipe.parents.push_back(joint == recipe.root ? joint : joint < recipe.root ? joint + 1 : joint - 1);
    return recipe;
}

std::vector<float> features_of(const FeatureRecipe &recipe, const Clips &clips) {
    std::vector<float> features(clips.joints.size() / 3 * recipe.channels, std::numeric_limits<float>::quiet_NaN());
    compute_features(recipe, clips.joints.data(), clips.person_lengths.data(), clips.count(), clips.persons, features.data());
    return features;
}

/// The reference.
class Naive {
   public:
    Naive(const FeatureRecipe &recipe, const Clips &clips) : recipe_(recipe), clips_(clips) {}

    std::vector<double> compute() {
        for (int64_t clip = 0; clip < clips_.count(); clip++) {
            find_centre(clips_.person_lengths.data() + clip * clips_.persons);
            for (int64_t person = 0; person < clips_.persons; person++)
                add_person(clips_.person_lengths[clip * clips_.persons + person]);
        }
        return features_;
    }

   private:
    using Point = std::array<double, 3>;
    int64_t joints() const { return static_cast<int64_t>(recipe_.parents.size()); }
    float at(int64_t row, int64_t joint, int axis) const { return clips_.joints[(row * joints() + joint) * 3 + axis]; }
    bool lost(int64_t row, int64_t joint) const {
        for (int axis = 0; axis < recipe_.dims; axis++)
            if (at(row, joint, axis) != 0) return false;
        return true;
    }

    void find_centre(const int64_t *lengths) {
        centre_ = {};
        int64_t first = 0;
        for (int64_t person = clips_.persons - 1; person >= 0; person--)
            if (lengths[person] > 0) first = lengths[person];
        for (int64_t row = begin_ + first - 1; row >= begin_; row--) {
            if (lost(row, recipe_.root)) continue;
            for (int axis = 0; axis < recipe_.dims; axis++) centre_[axis] = at(row, recipe_.root, axis);
        }
    }

    Point position(int64_t row, int64_t joint) const {
        Point point{};
        for (int axis = 0; axis < recipe_.dims; axis++)
            point[axis] = recipe_.centre && lost(row, joint) ? 0 : at(row, joint, axis) - (recipe_.centre ? centre_[axis] : 0);
        return point;
    }

    Point difference(int64_t row, int64_t joint, int64_t other_row, int64_t other) const {
        Point point{};
        if (lost(row, joint) || lost(other_row, other)) return point;
        for (int axis = 0; axis < 3; axis++) point[axis] = position(row, joint)[axis] - position(other_row, other)[axis];
        return point;
    }

    void add_person(int64_t rows) {
        for (int64_t row = begin_; row < begin_ + rows; row++) {
            const int64_t from = row + 1 < begin_ + rows ? row : row - 1;  // the last row's motion is that of the one before
            for (int64_t joint = 0; joint < joints(); joint++) {
                std::vector<Point> parts = {position(row, joint)};
                if (recipe_.channels == 9) {
                    parts.push_back(difference(row, joint, row, recipe_.parents[joint]));
                    parts.push_back(rows > 1 ? difference(from + 1, joint, from, joint) : Point{});
                }
                for (Point &part : parts) {
                    if (recipe_.dims == 2) part[2] = at(row, joint, 2);
                    features_.insert(features_.end(), part.begin(), part.end());
                }
            }
        }
        begin_ += rows;
    }

    const FeatureRecipe &recipe_;
    const Clips &clips_;
    int64_t begin_ = 0;
    Point centre_{};
    std::vector<double> features_;
};

Clips random_clips(std::mt19937 &random, int64_t joints) {
    Clips clips;
    clips.persons = std::uniform_int_distribution<int64_t>(1, 3)(random);
    const int64_t count = std::uniform_int_distribution<int64_t>(1, 4)(random);
    for (int64_t i = 0; i < count * clips.persons; i++)
        clips.person_lengths.push_back(std::uniform_int_distribution<int64_t>(0, 5)(random));
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < clips.rows() * joints; i++) {
        const bool lost = std::bernoulli_distribution(0.25)(random);
        for (int axis = 0; axis < 3; axis++) clips.joints.push_back(lost ? 0 : normal(random));
    }
    return clips;
}

Clips one_person(std::vector<float> joints, int64_t rows) { return {std::move(joints), {rows}, 1}; }

}  // namespace

TEST_CASE("features equal the definition") {
    std::mt19937 random(0);
    for (int example = 0; example < 400; example++) {
        const int32_t joints = 2 + example % 5;
        const FeatureRecipe recipe = recipe_of(joints, example % 2 ? 3 : 2, example % 3 ? 9 : 3, example % 7 != 0);
        const Clips clips = random_clips(random, joints);
        const std::vector<float> made = features_of(recipe, clips);
        const std::vector<double> expected = Naive(recipe, clips).compute();
        REQUIRE(made.size() == expected.size());
        for (std::size_t i = 0; i < made.size(); i++) REQUIRE(made[i] == doctest::Approx(expected[i]).epsilon(1e-6));
    }
}

TEST_CASE("a clip has the same features alone and packed") {
    std::mt19937 random(1);
    const FeatureRecipe recipe = recipe_of(5, 3, 9, true);
    const Clips clips = random_clips(random, 5);
    const std::vector<float> packed = features_of(recipe, clips);
    int64_t row = 0;
    for (int64_t clip = 0; clip < clips.count(); clip++) {
        const auto lengths = clips.person_lengths.begin() + clip * clips.persons;
        Clips alone{{}, {lengths, lengths + clips.persons}, clips.persons};
        alone.joints.assign(clips.joints.begin() + row * 15, clips.joints.begin() + (row + alone.rows()) * 15);
        const std::vector<float> features = features_of(recipe, alone);
        CHECK(std::equal(features.begin(), features.end(), packed.begin() + row * 45));
        row += alone.rows();
    }
}

TEST_CASE("one row has no motion") {
    const auto features = features_of(recipe_of(2, 3, 9, true), one_person({1, 2, 3, 4, 5, 6}, 1));
    CHECK(features == std::vector<float>{-3, -3, -3, -3, -3, -3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
}

TEST_CASE("motion stops at a person's last row and repeats the one before") {
    // two persons of two rows and one joint pair; the second is far away
    const Clips clips{{1, 0, 0, 1, 0, 0, 3, 0, 0, 3, 0, 0, 100, 0, 0, 100, 0, 0, 107, 0, 0, 107, 0, 0}, {2, 2}, 2};
    const auto features = features_of(recipe_of(2, 3, 9, true), clips);
    const float motions[] = {2, 2, 7, 7};
    for (int row = 0; row < 4; row++) CHECK(features[row * 18 + 6] == motions[row]);
}

TEST_CASE("an absent first person does not move the centre") {
    const std::vector<float> joints = {1, 2, 3, 4, 5, 6};
    const FeatureRecipe recipe = recipe_of(2, 3, 9, true);
    CHECK(features_of(recipe, {joints, {0, 1}, 2}) == features_of(recipe, {joints, {1}, 1}));
}

TEST_CASE("without a tracked root of the first person nothing is subtracted") {
    // joint 1 is the root; the second person's is tracked and does not count
    const Clips clips{{1, 2, 3, 0, 0, 0, 4, 5, 6, 7, 8, 9}, {1, 1}, 2};
    const auto features = features_of(recipe_of(2, 3, 3, true), clips);
    CHECK(features == clips.joints);
}

TEST_CASE("the centre is the root's first tracked row") {
    const auto features =
        features_of(recipe_of(2, 3, 3, true), one_person({5, 5, 5, 0, 0, 0, 5, 5, 5, 1, 1, 1, 5, 5, 5, 2, 2, 2}, 3));
    CHECK(features == std::vector<float>{4, 4, 4, 0, 0, 0, 4, 4, 4, 0, 0, 0, 4, 4, 4, 1, 1, 1});
}

TEST_CASE("a lost joint has the zero that numpy gives it") {
    // (0 - 3) * 0 is -0
    const auto features = features_of(recipe_of(2, 3, 3, true), one_person({0, 0, 0, 3, -3, 3}, 1));
    CHECK(std::signbit(features[0]));
    CHECK_FALSE(std::signbit(features[1]));
}

TEST_CASE("in 2-D a joint with a score and no position is lost, and keeps its score") {
    const auto features = features_of(recipe_of(2, 2, 9, true), one_person({0, 0, 0.5f, 1, 2, 0.25f}, 1));
    CHECK(features == std::vector<float>{0, 0, 0.5f, 0, 0, 0.5f, 0, 0, 0.5f, 0, 0, 0.25f, 0, 0, 0.25f, 0, 0, 0.25f});
}

TEST_CASE("no clips and empty clips have no features") {
    const FeatureRecipe recipe = recipe_of(2, 3, 9, true);
    compute_features(recipe, nullptr, nullptr, 0, 2, nullptr);
    const int64_t lengths[] = {0, 0};
    compute_features(recipe, nullptr, lengths, 1, 2, nullptr);
}

TEST_CASE("the first joint with a bad coordinate is found") {
    std::vector<float> joints(30, 1.0f);
    CHECK(first_bad_joint(joints.data(), 10) == -1);
    joints[29] = std::numeric_limits<float>::infinity();
    CHECK(first_bad_joint(joints.data(), 10) == 9);
    joints[13] = std::numeric_limits<float>::quiet_NaN();
    CHECK(first_bad_joint(joints.data(), 10) == 4);
    CHECK(first_bad_joint(nullptr, 0) == -1);
}
