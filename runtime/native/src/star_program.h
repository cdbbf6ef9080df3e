// STAR packed for one instruction set and precision.
#pragma once

#include "kernels/kernels.h"
#include "program.h"

namespace star {

class StarProgram : public Program {
   public:
    StarProgram(const Bundle &bundle, star_precision precision, const Kernels &kernels);
    std::unique_ptr<Runner> make_runner(int threads) const override;

    const Kernels &kernels;
    Weights weights;
};

}  // namespace star
