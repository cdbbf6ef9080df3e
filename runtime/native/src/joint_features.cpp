#include "joint_features.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace star {

namespace {

constexpr int64_t kCoordinates = 3;  // of a joint, and of each part of its features

/// Rows of one person, and the arithmetic on them. A lost joint's value is multiplied by zero, as in numpy, so that even the
/// sign of a zero is the same.
class PersonFeatures {
   public:
    PersonFeatures(const FeatureRecipe &recipe, const float *joints, float *features, int64_t rows)
        : recipe_(recipe),
          joints_(joints),
          features_(features),
          rows_(rows),
          count_(static_cast<int64_t>(recipe.parents.size())) {}

    void compute(const std::array<float, kCoordinates> &centre) const {
        for_each_joint([&](int64_t row, int64_t joint) { position(row, joint, centre); });
        if (recipe_.channels == 9) {
            for_each_joint([&](int64_t row, int64_t joint) {
                difference(part(row, joint, 1), row, joint, row, recipe_.parents[joint]);
                motion(row, joint);
            });
        }
        if (recipe_.dims == 2) for_each_joint([&](int64_t row, int64_t joint) { scores(row, joint); });
    }

    bool is_tracked(int64_t row, int64_t joint) const {
        const float *in = input(row, joint);
        return std::any_of(in, in + recipe_.dims, [](float coordinate) { return coordinate != 0; });
    }

   private:
    template <class Body>
    void for_each_joint(const Body &body) const {
        for (int64_t row = 0; row < rows_; row++) {
            for (int64_t joint = 0; joint < count_; joint++) body(row, joint);
        }
    }

    const float *input(int64_t row, int64_t joint) const { return joints_ + (row * count_ + joint) * kCoordinates; }

    float *part(int64_t row, int64_t joint, int64_t index) const {
        return features_ + (row * count_ + joint) * recipe_.channels + index * kCoordinates;
    }

    void position(int64_t row, int64_t joint, const std::array<float, kCoordinates> &centre) const {
        const float *in = input(row, joint);
        float *out = part(row, joint, 0);
        const float factor = is_tracked(row, joint) ? 1.0f : 0.0f;
        for (int axis = 0; axis < recipe_.dims; axis++)
            out[axis] = recipe_.centre ? (in[axis] - centre[axis]) * factor : in[axis];
    }

    /// Position of one joint minus that of another; zero when one is lost.
    void difference(float *out, int64_t row, int64_t joint, int64_t other_row, int64_t other) const {
        const float *minuend = part(row, joint, 0), *subtrahend = part(other_row, other, 0);
        const float factor = is_tracked(row, joint) && is_tracked(other_row, other) ? 1.0f : 0.0f;
        for (int axis = 0; axis < recipe_.dims; axis++) out[axis] = (minuend[axis] - subtrahend[axis]) * factor;
    }

    void motion(int64_t row, int64_t joint) const {
        float *out = part(row, joint, 2);
        if (row + 1 < rows_) {
            difference(out, row + 1, joint, row, joint);
        } else if (row > 0) {
            std::copy_n(part(row - 1, joint, 2), recipe_.dims, out);
        } else {
            std::fill_n(out, recipe_.dims, 0.0f);
        }
    }

    void scores(int64_t row, int64_t joint) const {
        for (int64_t index = 0; index < recipe_.channels / kCoordinates; index++)
            part(row, joint, index)[2] = input(row, joint)[2];
    }

    const FeatureRecipe &recipe_;
    const float *const joints_;
    float *const features_;
    const int64_t rows_, count_;
};

/// The point subtracted from a clip's rows: the root in the first row of its first person that has one; else zero.
std::array<float, kCoordinates> centre_of(const FeatureRecipe &recipe, const float *joints, const int64_t *lengths,
                                          int64_t persons) {
    std::array<float, kCoordinates> centre{};
    const int64_t *first = std::find_if(lengths, lengths + persons, [](int64_t rows) { return rows > 0; });
    if (first == lengths + persons) return centre;
    const PersonFeatures person(recipe, joints, nullptr, *first);
    for (int64_t row = 0; row < *first; row++) {
        if (!person.is_tracked(row, recipe.root)) continue;
        const auto count = static_cast<int64_t>(recipe.parents.size());
        std::copy_n(joints + (row * count + recipe.root) * kCoordinates, recipe.dims, centre.begin());
        break;
    }
    return centre;
}

}  // namespace

int64_t first_bad_joint(const float *joints, int64_t count) {
    const float *const end = joints + count * kCoordinates;
    const float *bad = std::find_if(joints, end, [](float coordinate) { return !std::isfinite(coordinate); });
    return bad == end ? -1 : (bad - joints) / kCoordinates;
}

void compute_features(const FeatureRecipe &recipe, const float *joints, const int64_t *person_lengths, int64_t clips,
                      int64_t persons, float *features) {
    const auto count = static_cast<int64_t>(recipe.parents.size());
    for (int64_t clip = 0; clip < clips; clip++) {
        const int64_t *lengths = person_lengths + clip * persons;
        const auto centre = centre_of(recipe, joints, lengths, persons);
        for (int64_t person = 0; person < persons; person++) {
            PersonFeatures(recipe, joints, features, lengths[person]).compute(centre);
            joints += lengths[person] * count * kCoordinates;
            features += lengths[person] * count * recipe.channels;
        }
    }
}

}  // namespace star
