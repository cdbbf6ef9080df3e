// Joints to network features: the same recipe as runtime/features.py. Not features.h, which is a header of the C library.
#pragma once

#include <cstdint>

#include "model.h"

namespace star {

/// Features of packed clips; arguments were checked.
///
/// joints float32 [F, V, 3]: x, y, z, or x, y, score; a joint with all-zero position is lost. person_lengths [clips, persons]:
/// rows of each person of each clip in packing order, 0 for an absent one; they sum to F. features float32 [F, V, C]:
/// position, then bone (joint minus parent), then motion (next row minus this one within a person, the last row repeating the
/// one before). In 2-D layouts the third channel of each triple is the joint's score.
void compute_features(const FeatureRecipe &recipe, const float *joints, const int64_t *person_lengths, int64_t clips,
                      int64_t persons, float *features);

/// Index of the first of so many joints that has a coordinate of NaN or infinity; -1 when all are finite.
int64_t first_bad_joint(const float *joints, int64_t count);

}  // namespace star
