#include "stream.h"

#include <algorithm>
#include <string>
#include <tuple>
#include <utility>

#include "error.h"
#include "joint_features.h"
#include "message.h"

namespace star {

namespace {

constexpr int64_t kFirstCapacity = 1024;  // rows; a window of one person that is no longer never grows

}  // namespace

Stream::Stream(FeatureRecipe recipe, int64_t classes, std::shared_ptr<Runner> runner, int64_t window, int64_t hop)
    : recipe_(std::move(recipe)),
      runner_(std::move(runner)),
      window_(window),
      hop_(hop),
      row_size_(static_cast<int64_t>(recipe_.parents.size()) * 3),
      logits_(static_cast<std::size_t>(classes)) {
    reserve(std::min(window, kFirstCapacity));
}

bool Stream::push(const star_person *persons, int64_t count) {
    check(persons, count);
    reserve(held_ + count);
    frames_++;
    for (; held_ > 0 && rows_[oldest_].frame <= frames_ - window_; held_--) oldest_ = slot(1);
    for (int64_t index = 0; index < count; index++) {
        if (!is_lost(persons[index])) append(persons[index]);
    }
    const bool complete = frames_ % hop_ == 0;
    if (complete) recognise();
    return complete;
}

void Stream::check(const star_person *persons, int64_t count) {
    frame_ids_.clear();
    for (int64_t index = 0; index < count; index++) {
        const int64_t joint = first_bad_joint(persons[index].joints, row_size_ / 3);
        if (joint >= 0)
            throw Error(STAR_INVALID_ARGUMENT, message("joints hold NaN or infinity",
                                                       {.where = "person " + std::to_string(persons[index].id),
                                                        .found = "joint " + std::to_string(joint),
                                                        .expected = "finite coordinates (zeros where a joint is lost)"}));
        frame_ids_.push_back(persons[index].id);
    }
    std::sort(frame_ids_.begin(), frame_ids_.end());
    const auto twice = std::adjacent_find(frame_ids_.begin(), frame_ids_.end());
    if (twice != frame_ids_.end())
        throw Error(STAR_INVALID_ARGUMENT,
                    message("a person appears twice in one frame",
                            {.found = "id " + std::to_string(*twice), .expected = "one entry a person"}));
}

bool Stream::is_lost(const star_person &person) const {
    return std::all_of(person.joints, person.joints + row_size_, [](float value) { return value == 0; });
}

/// Makes room for so many rows; at least doubles, so that growing is rare.
void Stream::reserve(int64_t rows) {
    if (rows <= capacity()) return;
    const auto grown = static_cast<std::size_t>(std::max(rows, 2 * capacity()));
    std::vector<Row> new_rows(grown);
    std::vector<float> new_joints(grown * static_cast<std::size_t>(row_size_));
    for (int64_t order = 0; order < held_; order++) {
        new_rows[order] = rows_[slot(order)];
        std::copy_n(joints_at(slot(order)), row_size_, new_joints.data() + order * row_size_);
    }
    rows_ = std::move(new_rows);
    joints_ = std::move(new_joints);
    oldest_ = 0;
}

void Stream::append(const star_person &person) {
    const int64_t place = slot(held_++);
    rows_[place] = {frames_, person.id};
    std::copy_n(person.joints, row_size_, joints_.data() + place * row_size_);
}

void Stream::find_persons() {
    tracked_.clear();
    for (int64_t order = 0; order < held_; order++) tracked_.push_back({rows_[slot(order)].id, order});
    std::sort(tracked_.begin(), tracked_.end(),
              [](const Tracked &a, const Tracked &b) { return std::tie(a.id, a.order) < std::tie(b.id, b.order); });
    persons_.clear();
    for (int64_t index = 0; index < held_; index++) {
        if (index == 0 || tracked_[index].id != tracked_[index - 1].id)
            persons_.push_back({tracked_[index].id, tracked_[index].order, index, 0});
        persons_.back().rows++;
    }
    std::sort(persons_.begin(), persons_.end(),
              [](const Person &a, const Person &b) { return a.first_order < b.first_order; });
}

void Stream::gather() {
    ids_.clear();
    person_lengths_.clear();
    clip_.resize(static_cast<std::size_t>(held_ * row_size_));
    float *row = clip_.data();
    for (const Person &person : persons_) {
        ids_.push_back(person.id);
        person_lengths_.push_back(person.rows);
        for (int64_t index = person.begin; index < person.begin + person.rows; index++, row += row_size_)
            std::copy_n(joints_at(slot(tracked_[index].order)), row_size_, row);
    }
}

void Stream::recognise() {
    find_persons();
    gather();
    const auto persons = static_cast<int64_t>(persons_.size());
    result_ = {frames_, held_, persons, -1};
    if (held_ == 0) return;
    features_.resize(static_cast<std::size_t>(held_ * row_size_ / 3 * recipe_.channels));
    compute_features(recipe_, clip_.data(), person_lengths_.data(), 1, persons, features_.data());
    const int64_t cu_seqlens[] = {0, held_};
    runner_->run(features_.data(), cu_seqlens, 1, logits_.data());
    result_.label = std::max_element(logits_.begin(), logits_.end()) - logits_.begin();
}

}  // namespace star
