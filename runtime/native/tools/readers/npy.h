// Arrays in numpy's .npy format, as members of an .npz file.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "zip.h"

namespace star::tools {

/// What stands before the numbers of an array.
struct NpyHeader {
    char kind = 0;    // numpy's: f, i, u, U, b, ...
    size_t item = 0;  // bytes of one number or text
    bool swapped = false, fortran = false;
    std::vector<uint64_t> shape;

    bool is_integer() const { return kind == 'i' || kind == 'u'; }
    bool is_text() const { return kind == 'U'; }

    /// Numbers in the array; Damaged when they are too many to count.
    uint64_t count() const;
    /// As numpy prints the type, e.g. float32.
    std::string type_text() const;
    /// As Python prints the shape, e.g. (300, 25, 3).
    std::string shape_text() const;
};

/// Reads the Python literal {'descr': '<f4', 'fortran_order': False, 'shape': (300, 25, 3), } that numpy writes; Damaged for
/// anything else, Python objects above all.
NpyHeader parse_npy_header(std::string_view literal);

/// The arrays of an archive. Throws Damaged.
class NpzArchive {
   public:
    explicit NpzArchive(ZipFile &zip);

    bool has(const std::string &name) const { return find(name) != nullptr; }
    /// All names, sorted.
    std::vector<std::string> names() const;

   private:
    friend class NpyArray;
    const ZipEntry *find(const std::string &name) const;

    ZipFile &zip_;
};

/// One array: its header is read at once, its values when asked for, once.
class NpyArray {
   public:
    /// Damaged when the archive has no such array or its bytes are not as many as its header says.
    NpyArray(const NpzArchive &archive, const std::string &name);

    const NpyHeader &header() const { return header_; }

    /// Values of an array of floating-point numbers; one too large for float becomes infinite.
    std::vector<float> floats();
    /// The same in full precision.
    std::vector<double> doubles();
    /// Values of an array of integers; one too large for int64 becomes the largest.
    std::vector<int64_t> integers();
    /// Values of an array of text, in UTF-8.
    std::vector<std::string> texts();
    /// Reads over the values, for their checksum.
    void skip();

   private:
    template <class Stored, class Value>
    std::vector<Value> convert();
    template <class Value>
    std::vector<Value> floating();
    void require_plain(bool kind_fits, const char *kind) const;

    const std::string name_;
    ZipReader reader_;
    NpyHeader header_;
};

}  // namespace star::tools
