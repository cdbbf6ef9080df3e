// Zip archives that are not to be trusted: a directory is checked before a member is unfolded, and a member never unfolds to
// more than the directory says.
//
// minizip, zlib's own, does the format: it is a static library of Debian and Ubuntu that needs nothing but zlib, where libzip
// comes only as a shared one and brings four more.
#pragma once

#include <minizip/unzip.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace star::tools {

/// One file of an archive.
struct ZipEntry {
    std::string name;
    uint64_t size = 0, compressed = 0;  // bytes
    uint32_t unix_mode = 0;             // type and permissions; 0 where the writer says nothing
    uint64_t data = 0;                  // where its bytes begin in the archive
    unz64_file_pos position{};
};

/// An archive opened for reading. Throws Damaged, saying why, for what is no archive or not to be unfolded.
class ZipFile {
   public:
    /// An archive on disk; throws Failure when the file cannot be opened.
    static ZipFile open(const std::string &path);
    /// An archive in memory, whose bytes must stay.
    static ZipFile view(std::string_view bytes);

    const std::vector<ZipEntry> &entries() const { return entries_; }

    /// The entry of that name, or null.
    const ZipEntry *find(std::string_view name) const;

    /// All bytes of a member.
    std::string read(const ZipEntry &entry);

   private:
    friend class ZipReader;
    struct CloseFile {
        void operator()(FILE *file) const { std::fclose(file); }
    };
    struct CloseZip {
        void operator()(void *zip) const { unzClose(zip); }
    };

    explicit ZipFile(FILE *file);
    void check_end() const;
    void read_directory();
    ZipEntry read_entry();
    void check_growth() const;
    void check_layout(uint64_t directory) const;
    void open_member(const ZipEntry &entry);

    std::unique_ptr<FILE, CloseFile> file_;  // closed after zip_, which reads it
    std::unique_ptr<void, CloseZip> zip_;
    uint64_t size_ = 0;
    std::vector<ZipEntry> entries_;
};

/// Bytes of one member in order. One at a time for an archive.
class ZipReader {
   public:
    ZipReader(ZipFile &zip, const ZipEntry &entry);
    ~ZipReader();
    ZipReader(const ZipReader &) = delete;
    ZipReader &operator=(const ZipReader &) = delete;

    /// Bytes not yet read.
    uint64_t left() const { return left_; }

    /// Reads exactly size bytes; Damaged when there are fewer. With the last byte the checksum is compared.
    void read(void *to, size_t size);

   private:
    void finish();

    ZipFile &zip_;
    const std::string name_;
    uint64_t left_;
    bool open_ = true;
};

}  // namespace star::tools
