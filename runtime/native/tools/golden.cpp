#include "golden.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "errors.h"
#include "readers/npy.h"

namespace star::tools {
namespace {

/// Reads one array, which must have so many axes; its sizes go to shape.
template <class Value>
std::vector<Value> read(const NpzArchive &arrays, const char *name, size_t axes, std::vector<Value> (NpyArray::*values)(),
                        std::vector<int64_t> &shape) {
    NpyArray array(arrays, name);
    const auto &sizes = array.header().shape;
    if (sizes.size() != axes) throw Damaged(concat("array '", name, "' has shape ", array.header().shape_text()));
    shape.assign(sizes.begin(), sizes.end());
    return (array.*values)();
}

void read_tolerances(const NpzArchive &arrays, Golden &golden) {
    std::vector<int64_t> names, values;
    const auto precisions = read(arrays, "tolerance_precisions", 1, &NpyArray::texts, names);
    const auto errors = read(arrays, "tolerance_values", 1, &NpyArray::doubles, values);
    if (names != values) throw Damaged("not one tolerance a precision");
    for (size_t index = 0; index < precisions.size(); ++index) golden.tolerances[precisions[index]] = errors[index];
}

bool covers(const Golden &golden, int64_t rows) {
    int64_t sum = 0;
    for (int64_t clip = 0; clip < golden.clips; ++clip) {
        for (int64_t person = 0; person < golden.persons; ++person) {
            const int64_t length = golden.person_lengths[static_cast<size_t>(clip * golden.persons + person)];
            if (length < 0 || length > rows - sum) return false;
            sum += length;
        }
        if (golden.cu_seqlens[static_cast<size_t>(clip) + 1] != sum) return false;
    }
    return golden.cu_seqlens[0] == 0 && sum == rows;
}

}  // namespace

Golden Golden::parse(std::string_view bytes, const std::string &where) {
    Golden golden;
    std::vector<int64_t> joints, offsets, lengths, logits;
    try {
        ZipFile zip = ZipFile::view(bytes);
        const NpzArchive arrays(zip);
        golden.joints = read(arrays, "joints", 3, &NpyArray::floats, joints);
        golden.cu_seqlens = read(arrays, "cu_seqlens", 1, &NpyArray::integers, offsets);
        golden.person_lengths = read(arrays, "person_lengths", 2, &NpyArray::integers, lengths);
        golden.logits = read(arrays, "logits", 2, &NpyArray::floats, logits);
        read_tolerances(arrays, golden);
    } catch (const Damaged &damage) {
        throw input_error(std::string("cannot read the golden clips: ") + damage.what(),
                          {.where = where, .next = "export the bundle again"});
    }
    golden.joint_count = joints[1];
    golden.clips = lengths[0];
    golden.persons = lengths[1];
    golden.classes = logits[1];
    const bool fits = golden.clips > 0 && joints[2] == 3 && offsets[0] == golden.clips + 1 && logits[0] == golden.clips &&
                      covers(golden, joints[0]) &&
                      std::all_of(golden.joints.begin(), golden.joints.end(), [](float x) { return std::isfinite(x); });
    if (!fits)
        throw input_error("golden clips contradict themselves",
                          {.where = where,
                           .found = concat(golden.clips, " clips, ", joints[0], " rows, ", logits[0], " logits"),
                           .expected = "one row of each per clip, finite joints",
                           .next = "export the bundle again"});
    return golden;
}

double relative_error(const std::vector<float> &logits, const std::vector<float> &reference) {
    double worst = 0, largest = 0;
    for (size_t index = 0; index < reference.size(); ++index) {
        const double difference = std::abs(static_cast<double>(logits[index]) - reference[index]);
        if (!std::isfinite(difference)) return std::numeric_limits<double>::infinity();
        worst = std::max(worst, difference);
        largest = std::max(largest, static_cast<double>(std::abs(reference[index])));
    }
    return largest > 0 ? worst / largest : worst;
}

}  // namespace star::tools
