// Streams as JSON lines: frames of tracked persons in, one result per hop out (runtime/stream_lines.py).
//
// A frame is {"t": 12.3, "persons": [{"id": 1, "joints": [[x, y, z], ...]}]}; t is optional and comes back in the result.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "readers/frame.h"
#include "recognizer.h"
#include "report.h"

namespace star::tools {

/// Numbers for the ids of a stream's persons, which may be texts. It knows those of the last frames, however many come and go.
class Identities {
   public:
    explicit Identities(int64_t window) : window_(window) {}

    /// The number of an id in this frame, new or known.
    int64_t number_of(const Json &id, int64_t frame);
    /// The id of a person of the window.
    const Json &id_of(int64_t number) const { return known_.at(number).id; }
    /// Ids known now.
    size_t size() const { return known_.size(); }

   private:
    struct Known {
        Json id;
        int64_t last_frame;
    };

    void forget_before(int64_t frame);

    const int64_t window_;
    int64_t next_ = 0, next_sweep_ = 0;
    std::map<int64_t, Known> known_;
    std::unordered_map<std::string, int64_t> numbers_;  // of an id as JSON
};

/// Recognises the lines of one stream.
class StreamLines {
   public:
    StreamLines(Recognizer &recognizer, int64_t window, int64_t hop);

    /// Writes a line for each hop of lines, at once; empty lines are passed over. Throws Failure naming source and line when a
    /// line is no frame or its joints cannot be used.
    void run(std::istream &lines, std::ostream &out, const std::string &source);

    int64_t frames() const { return frames_; }
    int64_t results() const { return results_; }

   private:
    std::optional<OrderedJson> push(const Frame &frame);
    void check_person(const Frame &frame, size_t index) const;
    OrderedJson result_of(const Frame &frame, const star_stream_result &result) const;

    const Recognizer &recognizer_;
    Identities identities_;
    StreamHandle stream_;
    std::vector<float> logits_;
    int64_t frames_ = 0, results_ = 0;
};

}  // namespace star::tools
