// libFuzzer harness over the readers of clips and packed bundles: any bytes are read, or refused with a Failure or Damaged.
#include <cmath>
#include <cstdlib>
#include <string_view>

#include "errors.h"
#include "readers/clips.h"
#include "readers/zip.h"

using namespace star::tools;

namespace {

void require(bool holds) {
    if (!holds) std::abort();
}

// what everything behind the readers relies on
void check(const Recording &recording) {
    int64_t row = 0;
    for (const Clip &clip : recording.clips) {
        int64_t rows = 0;
        for (const int64_t length : clip.person_lengths) {
            require(length > 0);
            rows += length;
        }
        require(rows > 0 && rows == clip.rows && clip.first_row == row && clip.dropped >= 0);
        row += rows;
    }
    require(recording.joints.size() == static_cast<size_t>(row * recording.joint_count * 3));
    for (const float number : recording.joints) require(std::isfinite(number));
}

Recording read(std::string_view bytes) {
    if (!bytes.starts_with("PK")) return parse_ntu(bytes, "clip.skeleton", "clip");
    ZipFile zip = ZipFile::view(bytes);
    return read_npz(zip, "clips.npz", "clips");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    try {
        check(read({reinterpret_cast<const char *>(data), size}));
    } catch (const Failure &) {
    } catch (const Damaged &) {
    }
    return 0;
}
