// Recognition of a stream: a sliding window over tracked persons, one result per hop (runtime/streaming.py).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "model.h"
#include "program.h"
#include "star_edge/star.h"

namespace star {

/// Every hop frames the logits of the clip of the last window frames, in which persons stand one after the other, in the order
/// in which they are first tracked in the window. A person whose joints are all zero is lost and has no row.
///
/// Holds the window's rows and nothing older, whatever ids come and go; memory grows with the most rows a window ever had.
class Stream {
   public:
    /// window, hop >= 1. The runner is this stream's while it is pushed to.
    Stream(FeatureRecipe recipe, int64_t classes, std::shared_ptr<Runner> runner, int64_t window, int64_t hop);

    /// Takes a frame; true when it completes a hop. Throws Error (STAR_INVALID_ARGUMENT) for a bad coordinate or an id twice;
    /// the frame is then not taken. Throws std::bad_alloc; the frame is then not taken, or taken and the hop's result lost.
    bool push(const star_person *persons, int64_t count);

    /// Of the last hop.
    const star_stream_result &result() const { return result_; }
    /// [K]; of the last hop that had rows.
    const std::vector<float> &logits() const { return logits_; }
    /// Of the last hop's persons, in the order of their rows.
    const std::vector<int64_t> &ids() const { return ids_; }

   private:
    /// A person tracked in a frame; the joints are at the same place of joints_.
    struct Row {
        int64_t frame, id;
    };
    /// A row of the window by its order, from the oldest.
    struct Tracked {
        int64_t id, order;
    };
    /// One person's rows in tracked_.
    struct Person {
        int64_t id, first_order, begin, rows;
    };

    void check(const star_person *persons, int64_t count);
    bool is_lost(const star_person &person) const;
    void reserve(int64_t rows);
    void append(const star_person &person);
    int64_t capacity() const { return static_cast<int64_t>(rows_.size()); }
    /// Place in the ring of the row that many after the oldest.
    int64_t slot(int64_t order) const { return (oldest_ + order) % capacity(); }
    const float *joints_at(int64_t slot) const { return joints_.data() + slot * row_size_; }
    void find_persons();
    void gather();
    void recognise();

    const FeatureRecipe recipe_;
    const std::shared_ptr<Runner> runner_;
    const int64_t window_, hop_, row_size_;
    int64_t frames_ = 0;

    // a ring of the window's rows in order of time
    std::vector<Row> rows_;
    std::vector<float> joints_;  // [capacity, V, 3]
    int64_t oldest_ = 0, held_ = 0;

    // memory of one push, kept for the next
    std::vector<int64_t> frame_ids_;
    std::vector<Tracked> tracked_;  // by person, then in order
    std::vector<Person> persons_;   // in order of their first rows
    std::vector<int64_t> person_lengths_;
    std::vector<float> clip_, features_;

    star_stream_result result_{};
    std::vector<float> logits_;
    std::vector<int64_t> ids_;
};

}  // namespace star
