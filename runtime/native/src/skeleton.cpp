#include "skeleton.h"

#include <numeric>

#include "message.h"

namespace star {

namespace {

constexpr std::size_t kMostJoints = 1024;

Malformed unusable(const Skeleton &skeleton, const std::string &found, const std::string &expected) {
    return Malformed("skeleton layout " + in_quotes(skeleton.name) + " is not usable", found, expected);
}

void check_tree(const Skeleton &skeleton) {
    const auto count = static_cast<int32_t>(skeleton.joints.size());
    std::vector<int> bones(skeleton.joints.size(), 0);  // by child
    bones[skeleton.root] = 1;
    for (const auto &[child, parent] : skeleton.bones) bones[child]++;
    for (int32_t joint = 0; joint < count; joint++) {
        if (bones[joint] != 1)
            throw unusable(skeleton, "joint " + std::to_string(joint) + " without a parent or with two",
                           "each joint but the root is the child of exactly one bone");
    }
    const std::vector<int32_t> parents = skeleton.parents();
    for (int32_t joint = 0; joint < count; joint++) {
        int32_t above = joint, steps = 0;
        while (above != skeleton.root && steps++ < count) above = parents[above];
        if (above != skeleton.root) throw unusable(skeleton, "a cycle through joint " + std::to_string(above), "a tree");
    }
}

}  // namespace

std::vector<int32_t> Skeleton::parents() const {
    std::vector<int32_t> parents(joints.size());
    std::iota(parents.begin(), parents.end(), 0);
    for (const auto &[child, parent] : bones) parents[child] = parent;
    return parents;
}

Skeleton::Pairs read_pairs(const Value &value, int64_t joints) {
    Skeleton::Pairs pairs;
    const auto most = static_cast<std::size_t>(joints * joints);
    if (value.json().size() > most)
        throw Malformed(std::to_string(value.json().size()) + " pairs at " + in_quotes(value.path()),
                        "at most " + std::to_string(most));
    for (const Value &item : value.items()) {
        const std::vector<Value> ends = item.items();
        if (ends.size() != 2) throw Malformed(std::to_string(ends.size()) + " joints at " + in_quotes(item.path()), "two");
        pairs.emplace_back(ends[0].integer(0, joints - 1), ends[1].integer(0, joints - 1));
    }
    return pairs;
}

Skeleton read_skeleton(const Value &value) {
    Skeleton skeleton;
    skeleton.name = value.at("name").text();
    for (const Value &joint : value.at("joints").items()) skeleton.joints.push_back(joint.text());
    const std::size_t count = skeleton.joints.size();
    if (count < 2 || count > kMostJoints)
        throw unusable(skeleton, std::to_string(count) + " joints", "2 to " + std::to_string(kMostJoints));
    skeleton.bones = read_pairs(value.at("bones"), static_cast<int64_t>(count));
    skeleton.root = static_cast<int32_t>(value.at("root").integer(0, static_cast<int64_t>(count) - 1));
    if (const auto pairs = value.find("pairs")) skeleton.pairs = read_pairs(*pairs, static_cast<int64_t>(count));
    if (const auto dims = value.find("dims")) skeleton.dims = static_cast<int32_t>(dims->integer(2, 3));
    for (const Skeleton::Pairs *pairs : {&skeleton.bones, &skeleton.pairs}) {
        for (const auto &[one, other] : *pairs) {
            if (one == other)
                throw unusable(skeleton, "a pair of joint " + std::to_string(one) + " with itself", "two different joints");
        }
    }
    check_tree(skeleton);
    return skeleton;
}

}  // namespace star
