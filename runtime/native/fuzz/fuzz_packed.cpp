// libFuzzer harness over what star-run reads beside clips: packed bundles, golden clips, frames of a stream. Any bytes are
// read, or refused with a Failure, a Malformed or an Error.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <string_view>

#include "archive.h"
#include "error.h"
#include "errors.h"
#include "golden.h"
#include "manifest.h"
#include "readers/frame.h"

using namespace star;
using namespace star::tools;

namespace {

void require(bool holds) {
    if (!holds) std::abort();
}

template <class Body>
void refusable(const Body &body) {
    try {
        body();
    } catch (const Failure &) {
    } catch (const Malformed &) {
    } catch (const Error &) {
    }
}

/// Bytes as a file without a disk.
class MemoryFile {
   public:
    explicit MemoryFile(std::string_view bytes) : descriptor_(memfd_create("bundle", 0)) {
        require(descriptor_ >= 0 && write(descriptor_, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
    }
    ~MemoryFile() { close(descriptor_); }
    std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

   private:
    const int descriptor_;
};

void read_archive(std::string_view bytes) {
    const MemoryFile file(bytes);
    const Archive archive(file.path());
    const Manifest manifest = parse_manifest(archive.read("manifest.json"), "manifest.json");
    archive.check(manifest.files, manifest.bundle_id);
    for (const auto &[name, entry] : manifest.files) require(archive.read(name).size() == static_cast<size_t>(entry.bytes));
}

// what the self-test relies on
void read_golden(std::string_view bytes) {
    const Golden golden = Golden::parse(bytes, "golden.npz");
    const auto rows = static_cast<size_t>(golden.cu_seqlens.back());
    require(golden.cu_seqlens.size() == static_cast<size_t>(golden.clips) + 1);
    require(golden.joints.size() == rows * static_cast<size_t>(golden.joint_count) * 3);
    require(golden.person_lengths.size() == static_cast<size_t>(golden.clips * golden.persons));
    require(golden.logits.size() == static_cast<size_t>(golden.clips * golden.classes));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const std::string_view bytes(reinterpret_cast<const char *>(data), size);
    if (bytes.starts_with("PK")) {
        refusable([&] { read_archive(bytes); });
        refusable([&] { read_golden(bytes); });
    } else {
        refusable([&] {
            for (const Frame::Person &person : Frame::parse(bytes).persons) require(person.joints.size() % 3 == 0);
        });
    }
    return 0;
}
