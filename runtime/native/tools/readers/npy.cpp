#include "npy.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>

#include "../errors.h"

namespace star::tools {
namespace {

static_assert(std::endian::native == std::endian::little, "arrays are read as they are stored");
static_assert(std::numeric_limits<float>::is_iec559);

constexpr std::string_view MAGIC = "\x93NUMPY";
constexpr uint32_t MAX_HEADER = 10'000;  // numpy's own limit
constexpr size_t MAX_AXES = 32;
constexpr uint64_t MAX_ITEM = 1u << 20;  // bytes
constexpr size_t AT_ONCE = 4096;         // numbers converted at a time
constexpr std::string_view SUFFIX = ".npy";

/// The little of Python's syntax that numpy writes.
class Literal {
   public:
    explicit Literal(std::string_view text) : text_(text) {}

    NpyHeader header() {
        NpyHeader header;
        bool seen[3] = {};
        expect('{');
        while (!accept('}')) {
            const std::string_view key = quoted();
            expect(':');
            bool *known = key == "descr" ? &seen[0] : key == "fortran_order" ? &seen[1] : key == "shape" ? &seen[2] : nullptr;
            if (known == nullptr || *known) bad();
            *known = true;
            if (known == &seen[0]) type(header);
            if (known == &seen[1]) header.fortran = boolean();
            if (known == &seen[2]) header.shape = shape();
            if (!accept(',')) {
                expect('}');
                break;
            }
        }
        skip_space();
        if (!text_.empty() || !seen[0] || !seen[1] || !seen[2]) bad();
        return header;
    }

   private:
    [[noreturn]] static void bad() { throw Damaged("an array's header is not one that numpy writes"); }

    void skip_space() {
        const size_t at = text_.find_first_not_of(" \n");
        text_.remove_prefix(std::min(at, text_.size()));
    }

    bool accept(char wanted) {
        skip_space();
        if (!text_.starts_with(wanted)) return false;
        text_.remove_prefix(1);
        return true;
    }

    void expect(char wanted) {
        if (!accept(wanted)) bad();
    }

    std::string_view quoted() {
        const char quote = accept('\'') ? '\'' : '"';
        if (quote == '"') expect('"');
        const size_t end = text_.find(quote);
        if (end == text_.npos) bad();
        const std::string_view inside = text_.substr(0, end);
        text_.remove_prefix(end + 1);
        return inside;
    }

    bool boolean() {
        skip_space();
        for (const auto &[word, value] : {std::pair<std::string_view, bool>{"True", true}, {"False", false}}) {
            if (!text_.starts_with(word)) continue;
            text_.remove_prefix(word.size());
            return value;
        }
        bad();
    }

    uint64_t number() {
        skip_space();
        uint64_t value = 0;
        const auto [end, error] = std::from_chars(text_.data(), text_.data() + text_.size(), value);
        if (error != std::errc()) bad();
        text_.remove_prefix(static_cast<size_t>(end - text_.data()));
        return value;
    }

    std::vector<uint64_t> shape() {
        std::vector<uint64_t> sizes;
        expect('(');
        while (!accept(')')) {
            sizes.push_back(number());
            if (sizes.size() > MAX_AXES) bad();
            if (!accept(',')) {
                expect(')');
                if (sizes.size() == 1) bad();  // (3) is a number in Python
                break;
            }
        }
        return sizes;
    }

    // a type string such as '<f4'; a list of fields begins otherwise
    void type(NpyHeader &header) {
        skip_space();
        if (text_.starts_with('[')) throw Damaged("an array holds records, not numbers");
        std::string_view text = quoted();
        if (text.empty()) bad();
        header.swapped = text[0] == '>';
        if (std::string_view("<>|=").find(text[0]) != text.npos) text.remove_prefix(1);
        if (text.empty()) bad();
        header.kind = text[0];
        text.remove_prefix(1);
        if (header.kind == 'O') throw Damaged("an array holds Python objects, which are never loaded");
        uint64_t size = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), size);
        const std::string_view rest = text.substr(static_cast<size_t>(end - text.data()));
        const bool date = (header.kind == 'M' || header.kind == 'm') && rest.starts_with('[') && rest.ends_with(']');
        if (error != std::errc() || !(rest.empty() || date) ||
            std::string_view("biufcmMSUV").find(header.kind) == std::string_view::npos)
            bad();
        if (size > MAX_ITEM) throw Damaged("an array's texts are too long");
        header.item = header.is_text() ? 4 * size : size;
    }

    std::string_view text_;
};

/// IEEE 754 binary16.
struct Half {
    uint16_t bits;

    explicit operator float() const {
        const int exponent = bits >> 10 & 31, fraction = bits & 1023;
        const float size = exponent == 31  ? (fraction ? NAN : INFINITY)
                           : exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                           : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
        return bits & 0x8000 ? -size : size;
    }
    explicit operator double() const { return static_cast<float>(*this); }
};

template <class Value, class Stored>
Value converted(Stored stored) {
    if constexpr (std::is_same_v<Stored, uint64_t>)
        return static_cast<Value>(std::min<uint64_t>(stored, std::numeric_limits<int64_t>::max()));
    else
        return static_cast<Value>(stored);
}

void append_utf8(std::string &text, uint32_t point) {
    if (point > 0x10FFFF || (point >= 0xD800 && point < 0xE000)) throw Damaged("a text holds something that is no character");
    if (point < 0x80) {
        text += static_cast<char>(point);
        return;
    }
    const int more = point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
    constexpr unsigned char lead[] = {0, 0xC0, 0xE0, 0xF0};
    text += static_cast<char>(lead[more] | point >> (6 * more));
    for (int left = more - 1; left >= 0; --left) text += static_cast<char>(0x80 | (point >> (6 * left) & 63));
}

std::string_view stem_of(std::string_view member) {
    if (member.ends_with(SUFFIX)) member.remove_suffix(SUFFIX.size());
    return member;
}

NpyHeader read_header(ZipReader &reader, const std::string &name) {
    char start[8];
    if (reader.left() < sizeof(start)) throw Damaged(name + " is no array");
    reader.read(start, sizeof(start));
    if (!std::string_view(start, sizeof(start)).starts_with(MAGIC)) throw Damaged(name + " is no array");
    const int major = start[6];
    if ((major != 1 && major != 2) || start[7] != 0)
        throw Damaged(concat(name, " is of .npy format ", major, ", neither 1.0 nor 2.0"));
    unsigned char length[4] = {};
    reader.read(length, major == 1 ? 2 : 4);
    const uint32_t size = length[0] | length[1] << 8 | length[2] << 16 | static_cast<uint32_t>(length[3]) << 24;
    if (size > MAX_HEADER) throw Damaged(concat("the header of ", name, " has ", size, " bytes, more than ", MAX_HEADER));
    std::string literal(size, '\0');
    reader.read(literal.data(), size);
    return parse_npy_header(literal);
}

const ZipEntry &required(const ZipEntry *entry, const std::string &name) {
    if (entry == nullptr) throw Damaged("no array '" + name + "'");
    return *entry;
}

}  // namespace

uint64_t NpyHeader::count() const {
    uint64_t product = 1;
    if (std::find(shape.begin(), shape.end(), 0u) != shape.end()) return 0;
    for (const uint64_t size : shape)
        if (__builtin_mul_overflow(product, size, &product)) throw Damaged("an array of more numbers than can be counted");
    return product;
}

std::string NpyHeader::type_text() const {
    const std::string order = swapped ? ">" : "";
    if (is_text()) return concat(swapped ? '>' : '<', 'U', item / 4);
    const char *word = kind == 'f' ? "float" : kind == 'i' ? "int" : kind == 'u' ? "uint" : kind == 'c' ? "complex" : nullptr;
    if (word == nullptr) return kind == 'b' ? "bool" : concat(kind, item);
    return swapped ? concat('>', kind, item) : concat(word, 8 * item);
}

std::string NpyHeader::shape_text() const {
    std::string text = "(";
    for (size_t axis = 0; axis < shape.size(); ++axis) text += (axis ? ", " : "") + std::to_string(shape[axis]);
    return text + (shape.size() == 1 ? ",)" : ")");
}

NpyHeader parse_npy_header(std::string_view literal) { return Literal(literal).header(); }

NpzArchive::NpzArchive(ZipFile &zip) : zip_(zip) {
    std::vector<std::string> held = names();
    const auto twice = std::adjacent_find(held.begin(), held.end());
    if (twice != held.end()) throw Damaged("two arrays '" + *twice + "'");
}

std::vector<std::string> NpzArchive::names() const {
    std::vector<std::string> held;
    for (const ZipEntry &entry : zip_.entries()) held.emplace_back(stem_of(entry.name));
    std::sort(held.begin(), held.end());
    return held;
}

const ZipEntry *NpzArchive::find(const std::string &name) const {
    const ZipEntry *entry = zip_.find(name + std::string(SUFFIX));
    return entry != nullptr ? entry : zip_.find(name);
}

NpyArray::NpyArray(const NpzArchive &archive, const std::string &name)
    : name_(name), reader_(archive.zip_, required(archive.find(name), name)), header_(read_header(reader_, name)) {
    uint64_t bytes = 0;
    if (__builtin_mul_overflow(header_.count(), header_.item, &bytes) || bytes != reader_.left())
        throw Damaged(
            concat(name, " holds ", reader_.left(), " bytes, which is not ", header_.type_text(), " ", header_.shape_text()));
}

template <class Stored, class Value>
std::vector<Value> NpyArray::convert() {
    std::vector<Value> values(header_.count());
    std::vector<Stored> stored(std::min(AT_ONCE, values.size()));
    for (size_t done = 0; done < values.size(); done += stored.size()) {
        stored.resize(std::min(stored.size(), values.size() - done));
        reader_.read(stored.data(), stored.size() * sizeof(Stored));
        std::transform(stored.begin(), stored.end(), values.begin() + static_cast<std::ptrdiff_t>(done),
                       converted<Value, Stored>);
    }
    return values;
}

template <class Value>
std::vector<Value> NpyArray::floating() {
    require_plain(header_.kind == 'f' && (header_.item == 2 || header_.item == 4 || header_.item == 8),
                  "float16, float32 or float64");
    if (header_.item == 2) return convert<Half, Value>();
    return header_.item == 4 ? convert<float, Value>() : convert<double, Value>();
}

std::vector<float> NpyArray::floats() { return floating<float>(); }

std::vector<double> NpyArray::doubles() { return floating<double>(); }

std::vector<int64_t> NpyArray::integers() {
    require_plain(header_.is_integer() && std::has_single_bit(header_.item) && header_.item <= 8, "integers");
    const bool is_signed = header_.kind == 'i';
    switch (header_.item) {
        case 1:
            return is_signed ? convert<int8_t, int64_t>() : convert<uint8_t, int64_t>();
        case 2:
            return is_signed ? convert<int16_t, int64_t>() : convert<uint16_t, int64_t>();
        case 4:
            return is_signed ? convert<int32_t, int64_t>() : convert<uint32_t, int64_t>();
        default:
            return is_signed ? convert<int64_t, int64_t>() : convert<uint64_t, int64_t>();
    }
}

std::vector<std::string> NpyArray::texts() {
    require_plain(header_.is_text(), "text");
    if (header_.item == 0 && header_.count() > MAX_ITEM) throw Damaged(name_ + " holds too many empty texts");
    std::vector<std::string> values(header_.count());
    std::vector<uint32_t> points(header_.item / 4);
    for (std::string &value : values) {
        reader_.read(points.data(), header_.item);
        while (!points.empty() && points.back() == 0) points.pop_back();
        for (const uint32_t point : points) append_utf8(value, point);
        points.resize(header_.item / 4);
    }
    return values;
}

void NpyArray::skip() {
    char bytes[4096];
    while (reader_.left() > 0) reader_.read(bytes, std::min<uint64_t>(sizeof(bytes), reader_.left()));
}

void NpyArray::require_plain(bool kind_fits, const char *kind) const {
    if (!kind_fits) throw Damaged(concat("array '", name_, "' holds ", header_.type_text(), ", not ", kind));
    if (header_.swapped && header_.item > 1)
        throw Damaged(concat("array '", name_, "' is big-endian (", header_.type_text(), ")"));
    if (header_.fortran && header_.shape.size() > 1)
        throw Damaged(concat("array '", name_, "' is in Fortran order; save numpy.ascontiguousarray of it"));
}

}  // namespace star::tools
