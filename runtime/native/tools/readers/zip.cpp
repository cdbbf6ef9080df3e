#include "zip.h"

#include <minizip/ioapi.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "../errors.h"

namespace star::tools {
namespace {

constexpr size_t MAX_ENTRIES = 256;
constexpr uint64_t RATIO = 100;           // bytes of all members together for one byte of the archive
constexpr uint64_t HARMLESS = 16u << 20;  // up to so many bytes no ratio is asked for: a few constant arrays compress better
constexpr uint64_t LOCAL_HEADER = 30;     // without the name
constexpr size_t END_RECORD = 22;
constexpr uint32_t ENCRYPTED = 0x1 | 0x40 | 0x2000;  // traditional, strong, hidden names
constexpr unsigned AT_ONCE = 1u << 20;               // bytes; minizip takes no more than an int at a time

void *open_given(void *file, const void *, int) { return file; }

int close_nothing(void *, void *) { return 0; }  // the ZipFile closes it

}  // namespace

ZipFile ZipFile::open(const std::string &path) {
    FILE *file = std::fopen(path.c_str(), "rb");
    if (file == nullptr) {
        const int reason = errno;
        throw Failure(Exit::mismatch, std::strerror(reason), {.where = path});
    }
    return ZipFile(file);
}

ZipFile ZipFile::view(std::string_view bytes) {
    if (bytes.empty()) throw Damaged("no zip directory");
    FILE *file = fmemopen(const_cast<char *>(bytes.data()), bytes.size(), "r");
    if (file == nullptr) throw std::bad_alloc();
    return ZipFile(file);
}

const ZipEntry *ZipFile::find(std::string_view name) const {
    const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const auto &entry) { return entry.name == name; });
    return found == entries_.end() ? nullptr : &*found;
}

std::string ZipFile::read(const ZipEntry &entry) {
    ZipReader reader(*this, entry);
    std::string bytes(entry.size, '\0');
    reader.read(bytes.data(), bytes.size());
    return bytes;
}

ZipFile::ZipFile(FILE *file) : file_(file) {
    if (fseeko(file_.get(), 0, SEEK_END) != 0) throw Damaged("no file that can be read from any place");
    size_ = static_cast<uint64_t>(ftello(file_.get()));
    check_end();
    zlib_filefunc64_def functions;
    fill_fopen64_filefunc(&functions);
    functions.zopen64_file = open_given;
    functions.zclose_file = close_nothing;
    functions.opaque = file_.get();
    zip_.reset(unzOpen2_64(nullptr, &functions));
    if (!zip_) throw Damaged("no zip directory");
    read_directory();
}

// minizip would take the end record of an archive within the archive for its own, or one that is cut off.
void ZipFile::check_end() const {
    char end[END_RECORD];
    if (size_ < sizeof(end) || fseeko(file_.get(), -static_cast<off_t>(sizeof(end)), SEEK_END) != 0 ||
        std::fread(end, sizeof(end), 1, file_.get()) != 1 || std::memcmp(end, "PK\5\6", 4) != 0 || end[20] != 0 ||
        end[21] != 0)
        throw Damaged("no zip directory");
}

void ZipFile::read_directory() {
    unz_global_info64 info{};
    if (unzGetGlobalInfo64(zip_.get(), &info) != UNZ_OK) throw Damaged("no zip directory");
    if (info.number_entry > MAX_ENTRIES) throw Damaged(concat(info.number_entry, " members, more than ", MAX_ENTRIES));
    uint64_t directory = size_;
    for (uint64_t index = 0; index < info.number_entry; ++index) {
        const int status = index == 0 ? unzGoToFirstFile(zip_.get()) : unzGoToNextFile(zip_.get());
        if (status != UNZ_OK) throw Damaged("the zip directory is cut off");
        entries_.push_back(read_entry());
        if (index == 0) directory = entries_[0].position.pos_in_zip_directory;
    }
    check_growth();
    for (ZipEntry &entry : entries_) {
        open_member(entry);
        entry.data = unzGetCurrentFileZStreamPos64(zip_.get());
        unzCloseCurrentFile(zip_.get());
    }
    check_layout(directory);
}

ZipEntry ZipFile::read_entry() {
    unz_file_info64 info{};
    char name[1024];
    ZipEntry entry;
    if (unzGetCurrentFileInfo64(zip_.get(), &info, name, sizeof(name), nullptr, 0, nullptr, 0) != UNZ_OK ||
        unzGetFilePos64(zip_.get(), &entry.position) != UNZ_OK)
        throw Damaged("the zip directory is cut off");
    if (info.size_filename >= sizeof(name) || std::memchr(name, '\0', info.size_filename) != nullptr)
        throw Damaged("a member's name is not usable");
    entry.name.assign(name, info.size_filename);
    entry.size = info.uncompressed_size;
    entry.compressed = info.compressed_size;
    entry.unix_mode = static_cast<uint32_t>(info.external_fa >> 16);
    if (info.flag & ENCRYPTED) throw Damaged(entry.name + " is encrypted");
    if (info.compression_method != 0 && info.compression_method != Z_DEFLATED)
        throw Damaged(
            concat(entry.name, " has compression method ", info.compression_method, ", neither stored nor deflated"));
    if (info.compression_method == 0 && entry.size != entry.compressed)
        throw Damaged(entry.name + " contradicts its own size");
    return entry;
}

void ZipFile::check_growth() const {
    const uint64_t most = std::max(HARMLESS, RATIO * size_);
    uint64_t total = 0;
    for (const ZipEntry &entry : entries_) {
        if (entry.size > most || (total += entry.size) > most)
            throw Damaged(concat("it would grow to more than ", most, " bytes out of ", size_));
    }
}

// Members that share bytes unfold to more than the archive holds; none may reach into the next.
void ZipFile::check_layout(uint64_t directory) const {
    std::vector<const ZipEntry *> ordered;
    for (const ZipEntry &entry : entries_) ordered.push_back(&entry);
    std::sort(ordered.begin(), ordered.end(), [](const auto *a, const auto *b) { return a->data < b->data; });
    for (size_t index = 0; index < ordered.size(); ++index) {
        const ZipEntry &entry = *ordered[index];
        const bool last = index + 1 == ordered.size();
        const uint64_t header = last ? 0 : LOCAL_HEADER + ordered[index + 1]->name.size();
        const uint64_t limit = last ? directory : ordered[index + 1]->data - std::min(ordered[index + 1]->data, header);
        if (entry.data > limit || entry.compressed > limit - entry.data) throw Damaged("members overlap at " + entry.name);
    }
}

void ZipFile::open_member(const ZipEntry &entry) {
    if (unzGoToFilePos64(zip_.get(), &entry.position) != UNZ_OK || unzOpenCurrentFile(zip_.get()) != UNZ_OK)
        throw Damaged("the directory contradicts the header of " + entry.name);
}

ZipReader::ZipReader(ZipFile &zip, const ZipEntry &entry) : zip_(zip), name_(entry.name), left_(entry.size) {
    zip_.open_member(entry);
}

ZipReader::~ZipReader() {
    if (open_) unzCloseCurrentFile(zip_.zip_.get());
}

void ZipReader::read(void *to, size_t size) {
    if (size > left_) throw Damaged(name_ + " is shorter than it says");
    for (auto *at = static_cast<char *>(to); size > 0;) {
        const int count = unzReadCurrentFile(zip_.zip_.get(), at, static_cast<unsigned>(std::min<size_t>(size, AT_ONCE)));
        if (count <= 0) throw Damaged(name_ + (count == 0 ? " is cut off" : " cannot be decompressed"));
        at += count;
        size -= static_cast<size_t>(count);
        left_ -= static_cast<uint64_t>(count);
    }
    if (left_ == 0) finish();
}

void ZipReader::finish() {
    if (!open_) return;
    open_ = false;
    if (unzCloseCurrentFile(zip_.zip_.get()) == UNZ_CRCERROR) throw Damaged("bad CRC-32 of " + name_);
}

}  // namespace star::tools
