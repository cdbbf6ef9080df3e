// One creator an op; they live as long as the library is loaded.
#pragma once

#include <array>

#include "ops.h"

namespace star_edge {

const std::array<nvinfer1::IPluginCreatorInterface *, kOps.size()> &creators();

}  // namespace star_edge
