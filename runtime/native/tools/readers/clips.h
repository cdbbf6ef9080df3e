// Recordings: a file on disk becomes clips, by the rules of runtime/readers and runtime/clip.py.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace star::tools {

/// One clip of a recording; its persons stand one after the other along its rows.
struct Clip {
    std::string name;
    int64_t first_row = 0, rows = 0;
    std::vector<int64_t> person_lengths;
    int64_t dropped = 0;  // rows left out because all joints of the person were lost
};

/// All clips of one file, one after the other along the rows.
struct Recording {
    std::string file;
    int64_t joint_count = 0;    // V
    std::vector<float> joints;  // [F, V, 3], finite
    std::vector<Clip> clips;    // none of them empty
};

/// The clips of a file, chosen by suffix: .skeleton (NTU RGB+D, one clip) or .npz (packed clips). Throws Failure for a missing
/// file, another suffix or a damaged file.
Recording read_recording(const std::string &path);

/// One NTU .skeleton file from its bytes (runtime/readers/ntu.py); where stands in messages.
Recording parse_ntu(std::string_view bytes, const std::string &where, const std::string &name);

class ZipFile;

/// One .npz file of packed clips (runtime/readers/npz.py); where stands in messages, stem in the names of unnamed clips.
Recording read_npz(ZipFile &zip, const std::string &where, const std::string &stem);

/// Whether any of count numbers is not zero: the joints of a tracked person.
inline bool is_tracked(const float *numbers, int64_t count) {
    for (int64_t index = 0; index < count; ++index)
        if (numbers[index] != 0.0f) return true;
    return false;
}

}  // namespace star::tools
