// All clips one after another along the frames: array xyz [frames, joints, 3]; optional lengths [clips], persons [clips] (a
// clip of p persons is p equal parts of its rows) and names [clips].
#include <algorithm>
#include <cmath>
#include <numeric>

#include "../errors.h"
#include "clips.h"
#include "npy.h"

namespace star::tools {
namespace {

/// Reads the arrays of one file in the order and with the messages of runtime/readers/npz.py.
class Reader {
   public:
    Reader(ZipFile &zip, const std::string &where, const std::string &stem) : arrays_(zip), where_(where), stem_(stem) {}

    Recording read() {
        read_joints();
        read_lengths();
        read_persons();
        read_names();
        for (const std::string &name : arrays_.names())
            if (name != "xyz" && name != "lengths" && name != "persons" && name != "names") NpyArray(arrays_, name).skip();
        pack();
        return std::move(recording_);
    }

   private:
    void require(bool holds, const std::string &what, const std::string &found, const std::string &expected) const {
        if (!holds) throw input_error(what, {.where = where_, .found = found, .expected = expected});
    }

    static std::string describe(const NpyHeader &header) { return header.type_text() + " " + header.shape_text(); }

    int64_t rows() const { return static_cast<int64_t>(recording_.joints.size()) / row_size(); }

    int64_t row_size() const { return 3 * recording_.joint_count; }

    void read_joints() {
        const std::vector<std::string> names = arrays_.names();
        std::string held;
        for (const std::string &name : names) held += (held.empty() ? "" : ", ") + name;
        require(arrays_.has("xyz"), "array is missing", held.empty() ? "no arrays" : held, "an array 'xyz'");
        NpyArray xyz(arrays_, "xyz");
        const NpyHeader &header = xyz.header();
        require(header.shape.size() == 3 && header.shape[2] == 3 && header.shape[1] > 0 && header.shape[1] <= MAX_JOINTS,
                "array 'xyz' has the wrong shape", header.shape_text(), "(frames, joints, 3)");
        require(header.kind == 'f', "array 'xyz' has the wrong type", header.type_text(), "float32");
        recording_.file = where_;
        recording_.joint_count = static_cast<int64_t>(header.shape[1]);
        recording_.joints = xyz.floats();
        const auto bad =
            std::find_if(recording_.joints.begin(), recording_.joints.end(), [](float x) { return !std::isfinite(x); });
        const int64_t at = bad - recording_.joints.begin();
        require(bad == recording_.joints.end(), "joints hold NaN or infinity",
                concat("row ", at / row_size(), ", joint ", at % row_size() / 3), "finite coordinates");
    }

    void read_lengths() {
        lengths_ = {rows()};
        if (!arrays_.has("lengths")) return;
        NpyArray array(arrays_, "lengths");
        const NpyHeader &header = array.header();
        require(header.shape.size() == 1 && header.is_integer() && header.shape[0] > 0, "array 'lengths' is not usable",
                describe(header), "integers (clips,)");
        lengths_ = array.integers();
        int64_t sum = 0;
        bool countable = true;
        for (const int64_t length : lengths_) countable = countable && !__builtin_add_overflow(sum, length, &sum);
        const int64_t least = *std::min_element(lengths_.begin(), lengths_.end());
        require(least >= 0 && countable && sum == rows(), "array 'lengths' does not cover the frames",
                concat("smallest ", least, ", sum ", countable ? std::to_string(sum) : "too large"),
                concat("no negative length, sum ", rows()));
    }

    void require_column(const NpyHeader &header, const std::string &name, bool kind_fits, const char *kind) const {
        require(kind_fits && header.shape == std::vector<uint64_t>{lengths_.size()},
                "array '" + name + "' does not fit the clips", describe(header), concat(kind, " (", lengths_.size(), ",)"));
    }

    void read_persons() {
        persons_.assign(lengths_.size(), 1);
        if (!arrays_.has("persons")) return;
        NpyArray array(arrays_, "persons");
        require_column(array.header(), "persons", array.header().is_integer(), "integers");
        persons_ = array.integers();
        bool divides = true;
        for (size_t clip = 0; clip < lengths_.size(); ++clip)
            divides = divides && persons_[clip] > 0 && lengths_[clip] % persons_[clip] == 0;
        const auto [least, most] = std::minmax_element(persons_.begin(), persons_.end());
        require(divides, "array 'persons' does not divide the clips", concat(*least, " to ", *most, " persons"),
                "at least one person, rows of a clip divisible by its persons");
    }

    void read_names() {
        if (!arrays_.has("names")) {
            for (size_t clip = 0; clip < lengths_.size(); ++clip) names_.push_back(concat(stem_, "/", clip));
            return;
        }
        NpyArray array(arrays_, "names");
        require_column(array.header(), "names", array.header().is_text(), "text");
        names_ = array.texts();
    }

    // Rows without a tracked joint go; what stays moves down in place, so that there is one copy of the joints.
    void pack() {
        int64_t from = 0, to = 0;
        for (size_t index = 0; index < lengths_.size(); ++index) {
            Clip clip{.name = names_[index], .first_row = to, .person_lengths = {}};
            const int64_t end = from + lengths_[index], person_rows = lengths_[index] / persons_[index];
            while (from < end) {
                const int64_t kept = pack_person(from, from + person_rows, to);
                if (kept > 0) clip.person_lengths.push_back(kept);
                from += person_rows;
                to += kept;
            }
            clip.rows = to - clip.first_row;
            clip.dropped = lengths_[index] - clip.rows;
            if (clip.rows == 0)
                throw input_error("clip without any tracked body",
                                  {.where = clip.name, .found = "no rows", .expected = "at least one row"});
            recording_.clips.push_back(std::move(clip));
        }
        recording_.joints.resize(static_cast<size_t>(to * row_size()));
    }

    int64_t pack_person(int64_t from, int64_t end, int64_t to) {
        float *joints = recording_.joints.data();
        const int64_t start = to;
        for (; from < end; ++from) {
            const float *row = joints + from * row_size();
            if (!is_tracked(row, row_size())) continue;
            if (from != to) std::copy_n(row, row_size(), joints + to * row_size());
            ++to;
        }
        return to - start;
    }

    static constexpr uint64_t MAX_JOINTS = 1u << 20;  // so that sizes of rows cannot overflow

    NpzArchive arrays_;
    const std::string where_, stem_;
    Recording recording_;
    std::vector<int64_t> lengths_, persons_;
    std::vector<std::string> names_;
};

}  // namespace

Recording read_npz(ZipFile &zip, const std::string &where, const std::string &stem) { return Reader(zip, where, stem).read(); }

}  // namespace star::tools
