// A line a check, and how many passed.
#pragma once

#include <cstdio>
#include <string>

namespace conformance {

class Report {
   public:
    /// What was checked, and what is wrong with it; nothing where it passed.
    void check(const std::string &what, const std::string &problem) {
        (problem.empty() ? passed_ : failed_)++;
        std::printf("%s %s%s%s\n", problem.empty() ? "ok    " : "FAILED", what.c_str(), problem.empty() ? "" : ": ",
                    problem.c_str());
    }

    void skip(const std::string &what, const std::string &reason) {
        skipped_++;
        std::printf("skip   %s: %s\n", what.c_str(), reason.c_str());
    }

    /// The last line; the exit status.
    int finish() const {
        std::printf("%d passed, %d failed, %d skipped\n", passed_, failed_, skipped_);
        return failed_ == 0 && passed_ > 0 ? 0 : 1;
    }

   private:
    int passed_ = 0, failed_ = 0, skipped_ = 0;
};

}  // namespace conformance
