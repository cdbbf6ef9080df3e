// What runners on a GPU have in common: a stream, and two clocks for where their time goes.
#pragma once

#include <chrono>

#include "device_memory.h"
#include "program.h"

namespace star {

class GpuRunner : public Runner {
   public:
    /// The host's: one, which waits for the GPU.
    int threads() const override { return 1; }

    void profile(bool on) override {
        profiled_ = on;
        gpu_seconds_ = run_seconds_ = 0;
    }

    const char *stage(int index, double &seconds) const override {
        if (index == 0) seconds = gpu_seconds_;
        if (index == 1) seconds = run_seconds_ - gpu_seconds_;
        return index == 0 ? "kernels on the GPU" : index == 1 ? "copies and waiting" : nullptr;
    }

   protected:
    /// Puts three things on the stream one after the other and waits for them; the GPU's clock runs for the second alone.
    template <class Upload, class Compute, class Download>
    void run_and_wait(const Upload &upload, const Compute &compute, const Download &download) {
        const auto begun = std::chrono::steady_clock::now();
        upload();
        if (profiled_) begin_.record(stream_.get());
        compute();
        if (profiled_) end_.record(stream_.get());
        download();
        check_cuda(cudaStreamSynchronize(stream_.get()), "the run");
        if (!profiled_) return;
        gpu_seconds_ += begin_.seconds_to(end_);
        run_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
    }

    cudaStream_t stream() const { return stream_.get(); }

   private:
    const DeviceStream stream_;
    const DeviceEvent begin_, end_;
    bool profiled_ = false;
    double gpu_seconds_ = 0, run_seconds_ = 0;
};

}  // namespace star
