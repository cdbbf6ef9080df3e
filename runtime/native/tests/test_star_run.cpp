// What star-run is made of: packed bundles, golden clips, ids of streams. What it prints is for
// tests/runtime/native/test_star_run.py.
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <limits>

#include "archive.h"
#include "errors.h"
#include "golden.h"
#include "sha256.h"
#include "star_run_files.h"
#include "stream_lines.h"

using namespace star;
using namespace star::tools;
using namespace made;

namespace {

/// A file that goes with the test.
struct TemporaryFile {
    explicit TemporaryFile(const std::string &bytes) {
        const int file = mkstemp(path.data());
        REQUIRE(file >= 0);
        std::ofstream(path, std::ios::binary) << bytes;
        close(file);
    }
    ~TemporaryFile() { std::remove(path.c_str()); }
    std::string path = "/tmp/star_run_XXXXXX";
};

std::string listed(const Member &member) {
    return "\"" + member.name + "\": {\"bytes\": " + std::to_string(member.data.size()) + ", \"sha256\": \"" +
           sha256(member.data) + "\"}";
}

Member list_of(const std::vector<Member> &members, const std::string &schema = "star-edge/packed/1") {
    std::string files;
    for (const Member &member : members) files += (files.empty() ? "" : ", ") + listed(member);
    return {"packed.json", "{\"schema\": \"" + schema + "\", \"bundle_id\": \"abc\", \"files\": {" + files + "}}"};
}

/// An archive of members and their list.
std::string packed(std::vector<Member> members) {
    members.push_back(list_of(members));
    return zip(members);
}

/// What an archive is refused with; empty when it is not.
std::string refusal_of(const std::string &archive) {
    const TemporaryFile file(archive);
    return refusal([&] { Archive(file.path).check({}, "abc"); });
}

const Member MANIFEST = {"manifest.json", "{}"}, WEIGHTS = {"weights.safetensors", "weights"};

std::vector<Member> golden_arrays() {
    const auto text = [](const std::string &word) {
        std::vector<uint32_t> points(word.begin(), word.end());
        return raw(points);
    };
    return {{"joints.npy", npy_of("<f4", "(3, 1, 3)", raw(std::vector<float>(9, 1)))},
            {"cu_seqlens.npy", npy_of("<i4", "(3,)", raw<int32_t>({0, 1, 3}))},
            {"person_lengths.npy", npy_of("<i4", "(2, 2)", raw<int32_t>({1, 0, 1, 1}))},
            {"logits.npy", npy_of("<f4", "(2, 4)", raw(std::vector<float>(8, 2)))},
            {"tolerance_precisions.npy", npy_of("<U4", "(2,)", text("fp32") + text("int8"))},
            {"tolerance_values.npy", npy_of("<f8", "(2,)", raw<double>({1e-5, 0.1}))}};
}

std::string golden_refusal(size_t index, const Member &member) {
    std::vector<Member> arrays = golden_arrays();
    arrays[index] = member;
    return refusal([&] { Golden::parse(zip(arrays), "golden.npz"); });
}

}  // namespace

TEST_CASE("a packed bundle gives the files of its list") {
    const TemporaryFile file(packed({MANIFEST, WEIGHTS, {"reports/verify.json", "{}"}}));
    const Archive archive(file.path);
    CHECK(archive.read("weights.safetensors") == "weights");
    const std::map<std::string, FileEntry> files = {{"weights.safetensors", {"weights.safetensors", 7, sha256("weights")}}};
    CHECK_NOTHROW(archive.check(files, "abc"));
    CHECK_SAYS(refusal([&] { archive.check(files, "def"); }), "list and manifest are of different bundles");
    CHECK_SAYS(refusal([&] { archive.check({}, "abc"); }), "a file that is not in the manifest");
    CHECK_SAYS(refusal([&] { archive.check({{"x", {"weights.safetensors", 8, sha256("weights")}}}, "abc"); }),
               "is not the file");
    CHECK_SAYS(refusal([&] { archive.check({{"x", {"absent", 8, ""}}}, "abc"); }), "no such file");
    CHECK_SAYS(refusal([&] { archive.check({{"x", {"packed.json", 8, ""}}}, "abc"); }), "reserved name");
}

TEST_CASE("packed bundles that must not be read") {
    CHECK(refusal_of(packed({MANIFEST})) == "");
    for (const char *name : {"../manifest", "/etc/passwd", "a/b.json", "reports/../x", ".hidden", "-x", "a\nb", "reports/"})
        CHECK_SAYS(refusal_of(packed({MANIFEST, {name, ""}})), "not a plain file name");
    Member special = {"x.json", "target"};
    special.unix_mode = S_IFLNK | 0777;
    CHECK_SAYS(refusal_of(packed({MANIFEST, special})), "holds a link");
    special.unix_mode = S_IFDIR | 0777;
    CHECK_SAYS(refusal_of(packed({MANIFEST, special})), "something that is no file");
    CHECK_SAYS(refusal_of(packed({MANIFEST, {"Manifest.JSON", ""}})), "a file twice");
    CHECK_SAYS(refusal_of(zip({MANIFEST})), "an archive without its list");
    CHECK_SAYS(refusal_of(packed({WEIGHTS})), "an archive without a manifest");
    CHECK_SAYS(refusal_of(packed({MANIFEST, WEIGHTS})), "a file that is not in the manifest");
    CHECK_SAYS(refusal_of(packed({MANIFEST, {"reports/x.html", ""}})), "a file that is not in the manifest");
    CHECK_SAYS(refusal_of(zip({MANIFEST, WEIGHTS, list_of({MANIFEST})})), "a file that its list does not name");
    CHECK_SAYS(refusal_of(zip({MANIFEST, list_of({MANIFEST, WEIGHTS})})), "lacks a file of its list");
    CHECK_SAYS(refusal_of(zip({MANIFEST, list_of({{"manifest.json", "{ }"}})})), "is not the file the bundle was made with");
    CHECK_SAYS(refusal_of(zip({MANIFEST, list_of({MANIFEST}, "star-edge/packed/2")})), "newer star-edge");
    CHECK_SAYS(refusal_of(zip({MANIFEST, list_of({MANIFEST}, "star-edge/bundle/1")})), "star-edge/packed/1");
    CHECK_SAYS(refusal_of(zip({MANIFEST, {"packed.json", "{"}})), "cannot read the archive's list");
    CHECK_SAYS(refusal_of(zip({MANIFEST, {"packed.json", std::string(2 << 20, ' ')}})), "too large to be one");
    CHECK_SAYS(refusal_of("no archive"), "no zip directory");
    const TemporaryFile changed(zip({{"manifest.json", "{!"}, list_of({MANIFEST})}));
    CHECK_SAYS(refusal([&] { Archive(changed.path).read("manifest.json"); }), "SHA-256");
}

TEST_CASE("golden clips") {
    const Golden golden = Golden::parse(zip(golden_arrays()), "golden.npz");
    CHECK(golden.clips == 2);
    CHECK(golden.persons == 2);
    CHECK(golden.classes == 4);
    CHECK(golden.cu_seqlens == std::vector<int64_t>{0, 1, 3});
    CHECK(golden.tolerances.at("int8") == 0.1);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    CHECK_SAYS(golden_refusal(0, {"joints.npy", npy_of("<f4", "(3, 1, 3)", raw(std::vector<float>(9, nan)))}), "contradict");
    CHECK_SAYS(golden_refusal(0, {"other.npy", npy_of("<f4", "(0,)", "")}), "no array 'joints'");
    CHECK_SAYS(golden_refusal(0, {"joints.npy", npy_of("<f4", "(9,)", raw(std::vector<float>(9, 1)))}), "has shape (9,)");
    for (const std::vector<int32_t> &offsets : {std::vector<int32_t>{0, 2, 3}, {1, 1, 3}, {0, 1, 4}, {0, 1, -3}})
        CHECK_SAYS(golden_refusal(1, {"cu_seqlens.npy", npy_of("<i4", "(3,)", raw(offsets))}), "contradict");
    CHECK_SAYS(golden_refusal(1, {"cu_seqlens.npy", npy_of("<i4", "(2,)", raw<int32_t>({0, 3}))}), "contradict");
    CHECK_SAYS(golden_refusal(2, {"person_lengths.npy", npy_of("<i4", "(2, 2)", raw<int32_t>({2, -1, 1, 1}))}), "contradict");
    CHECK_SAYS(golden_refusal(3, {"logits.npy", npy_of("<f4", "(1, 8)", raw(std::vector<float>(8, 2)))}), "contradict");
    CHECK_SAYS(golden_refusal(5, {"tolerance_values.npy", npy_of("<f8", "(1,)", raw<double>({1e-5}))}),
               "one tolerance a precision");
}

TEST_CASE("errors are relative to the largest reference, and infinite where an answer is not finite") {
    CHECK(relative_error({1, 2, -3}, {1, 2, -4}) == 0.25);
    CHECK(relative_error({1}, {0}) == 1);
    CHECK(relative_error({}, {}) == 0);
    CHECK(std::isinf(relative_error({NAN, 1}, {1, 1})));
}

TEST_CASE("ids of a stream keep their number in the window and are forgotten after it") {
    Identities identities(4);
    const int64_t text = identities.number_of("1", 0), number = identities.number_of(1, 0);
    CHECK(text != number);
    for (int64_t frame = 1; frame < 100'000; ++frame) {
        identities.number_of(frame + 10, frame);
        REQUIRE(identities.number_of(1, frame) == number);
        REQUIRE(identities.size() <= 2 * 4 + 2);
    }
    CHECK(identities.id_of(number) == 1);
    CHECK(identities.number_of("1", 100'000) != text);
}

TEST_CASE("frames of a stream") {
    const Frame frame = Frame::parse(R"({"t": 3, "x": [], "persons": [{"id": "a", "joints": [[1, 2.5, -3e-1]]}]})");
    CHECK(frame.t == 3.0);
    CHECK(frame.persons[0].id == "a");
    CHECK(frame.persons[0].joints == std::vector<float>{1, 2.5f, -0.3f});
    CHECK(!Frame::parse(R"({"persons": [], "t": null})").t);
    for (const char *line :
         {"", "[]", "{}", R"({"persons": {}})", R"({"persons": [1]})", R"({"persons": [], "t": "1"})",
          R"({"persons": [{"id": 1}]})", R"({"persons": [{"id": true, "joints": []}]})",
          R"({"persons": [{"id": 1, "joints": [1]}]})", R"({"persons": [{"id": 1, "joints": [[1, 2, null]]}]})",
          R"({"persons": [{"id": 99999999999999999999, "joints": []}]})", "\"\xff\""})
        CHECK_THROWS_AS(Frame::parse(line), Malformed);
}
