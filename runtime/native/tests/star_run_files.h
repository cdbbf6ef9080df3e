// Archives and arrays made in code for the tests of star-run, with whatever lies a test needs.
#pragma once

#include <doctest/doctest.h>
#include <zlib.h>

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

namespace made {

/// Bytes of numbers as they lie in memory.
template <class Number>
std::string raw(const std::vector<Number> &values) {
    return std::string(reinterpret_cast<const char *>(values.data()), values.size() * sizeof(Number));
}

inline std::string little(uint64_t value, int bytes) {
    std::string text;
    for (; bytes > 0; --bytes, value >>= 8) text += static_cast<char>(value);
    return text;
}

/// A .npy file of any header.
inline std::string npy(const std::string &header, const std::string &data, char major = 1) {
    return std::string("\x93NUMPY") + major + '\0' + little(header.size(), major == 1 ? 2 : 4) + header + data;
}

/// The one that numpy would write.
inline std::string npy_of(const std::string &descr, const std::string &shape, const std::string &data,
                          const char *fortran = "False") {
    return npy("{'descr': '" + descr + "', 'fortran_order': " + fortran + ", 'shape': " + shape + ", }   \n", data);
}

/// A member of an archive to be made, and the lies it tells.
struct Member {
    std::string name, data;
    bool deflate = false;
    uint32_t crc_change = 0, flags = 0, unix_mode = 0;
    int64_t size_change = 0;
};

inline std::string deflated(const std::string &data) {
    z_stream stream{};
    deflateInit2(&stream, 9, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
    std::string out(deflateBound(&stream, data.size()), '\0');
    stream.next_in = reinterpret_cast<Bytef *>(const_cast<char *>(data.data()));
    stream.avail_in = static_cast<uInt>(data.size());
    stream.next_out = reinterpret_cast<Bytef *>(out.data());
    stream.avail_out = static_cast<uInt>(out.size());
    deflate(&stream, Z_FINISH);
    out.resize(stream.total_out);
    deflateEnd(&stream);
    return out;
}

inline std::string zip(const std::vector<Member> &members) {
    std::string archive, directory;
    for (const Member &member : members) {
        const std::string body = member.deflate ? deflated(member.data) : member.data;
        const auto crc = crc32(0, reinterpret_cast<const Bytef *>(member.data.data()), static_cast<uInt>(member.data.size()));
        const std::string common = little(20, 2) + little(member.flags, 2) + little(member.deflate ? 8 : 0, 2) + little(0, 4) +
                                   little(crc ^ member.crc_change, 4) + little(body.size(), 4) +
                                   little(member.data.size() + static_cast<uint64_t>(member.size_change), 4) +
                                   little(member.name.size(), 2) + little(0, 2);
        directory += "PK\1\2" + little(20, 2) + common + little(0, 8) + little(member.unix_mode, 2) +
                     little(archive.size(), 4) + member.name;
        archive += "PK\3\4" + common + member.name + body;
    }
    const std::string count = little(members.size(), 2);
    return archive + directory + "PK\5\6" + little(0, 4) + count + count + little(directory.size(), 4) +
           little(archive.size(), 4) + little(0, 2);
}

/// The message of what an action throws; empty when it does not.
inline std::string refusal(const std::function<void()> &action) {
    try {
        action();
    } catch (const std::runtime_error &error) {
        return error.what();
    }
    return "";
}

}  // namespace made

#define CHECK_SAYS(message, part) CHECK_MESSAGE((message).find(part) != std::string::npos, (message))
