#include "safetensors.h"

#include <algorithm>

#include "json.h"
#include "message.h"

namespace star {

namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kHeaderLimit = 1 << 20;

uint64_t header_length(std::string_view file) {
    if (file.size() < kLengthBytes)
        throw Malformed(std::to_string(file.size()) + " bytes", "at least " + std::to_string(kLengthBytes));
    uint64_t length = 0;
    for (uint64_t place = 0; place < kLengthBytes; place++)
        length |= static_cast<uint64_t>(static_cast<unsigned char>(file[place])) << (8 * place);
    const uint64_t most = std::min(kHeaderLimit, file.size() - kLengthBytes);
    if (length > most) throw Malformed("a header of " + std::to_string(length) + " bytes", "at most " + std::to_string(most));
    return length;
}

/// Bytes of a shape; throws Malformed when the file cannot hold as many.
uint64_t size_of(const std::string &name, const std::vector<int64_t> &shape, uint64_t element, uint64_t most) {
    uint64_t size = element;
    for (const int64_t length : shape) {
        if (length == 0) return 0;
        if (size > most / static_cast<uint64_t>(length))
            throw Malformed("a shape larger than the file, of " + in_quotes(name),
                            "at most " + std::to_string(most) + " bytes");
        size *= static_cast<uint64_t>(length);
    }
    return size;
}

StoredTensor read_tensor(const std::string &name, const Value &entry, std::string_view data) {
    constexpr std::size_t most_axes = 8;
    const auto end_of_data = static_cast<int64_t>(data.size());
    StoredTensor tensor{entry.at("dtype").text({"F32", "I64"}), {}, {}};
    const std::vector<Value> shape = entry.at("shape").items(), offsets = entry.at("data_offsets").items();
    if (shape.size() > most_axes) throw Malformed(std::to_string(shape.size()) + " axes of " + in_quotes(name), "at most 8");
    for (const Value &length : shape) tensor.shape.push_back(length.integer(0, INT64_MAX));
    if (offsets.size() != 2)
        throw Malformed(std::to_string(offsets.size()) + " offsets of " + in_quotes(name), "begin and end");
    const int64_t begin = offsets[0].integer(0, end_of_data), end = offsets[1].integer(begin, end_of_data);
    const uint64_t size = size_of(name, tensor.shape, tensor.dtype == "F32" ? 4 : 8, data.size());
    if (static_cast<uint64_t>(end - begin) != size)
        throw Malformed(std::to_string(end - begin) + " bytes of " + in_quotes(name),
                        std::to_string(size) + " for " + describe(tensor.dtype, tensor.shape));
    tensor.bytes = data.substr(static_cast<std::size_t>(begin), static_cast<std::size_t>(size));
    return tensor;
}

/// Throws Malformed unless the tensors fill the data one behind the other.
void check_places(const std::map<std::string, StoredTensor> &tensors, std::string_view data) {
    std::vector<std::pair<std::size_t, std::size_t>> places;  // begin, end
    for (const auto &[name, tensor] : tensors) {
        const auto begin = static_cast<std::size_t>(tensor.bytes.data() - data.data());
        places.emplace_back(begin, begin + tensor.bytes.size());
    }
    std::sort(places.begin(), places.end());
    std::size_t filled = 0;
    for (const auto &[begin, end] : places) {
        if (begin != filled)
            throw Malformed("a tensor that begins at byte " + std::to_string(begin),
                            "the end of the one before, " + std::to_string(filled));
        filled = end;
    }
    if (filled != data.size()) throw Malformed("tensors of " + std::to_string(filled) + " bytes", std::to_string(data.size()));
}

}  // namespace

std::map<std::string, StoredTensor> read_safetensors(std::string_view file) {
    const uint64_t length = header_length(file);
    const Json header = parse_json(file.substr(kLengthBytes, length));
    const std::string_view data = file.substr(kLengthBytes + length);
    std::map<std::string, StoredTensor> tensors;
    for (const auto &[name, entry] : Value(header).fields()) {
        if (name != "__metadata__") tensors.emplace(name, read_tensor(name, entry, data));
    }
    check_places(tensors, data);
    return tensors;
}

std::string describe(const std::string &dtype, const std::vector<int64_t> &shape) {
    std::string text = dtype + " [";
    for (const int64_t length : shape) text += (text.back() == '[' ? "" : ", ") + std::to_string(length);
    return text + "]";
}

}  // namespace star
