// Readers of star-run: what numpy and Kinect write is read, damaged and hostile files are refused with a reason. That they
// agree with the readers in Python is for tests/runtime/native/test_star_run.py.
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "errors.h"
#include "readers/clips.h"
#include "readers/npy.h"
#include "star_run_files.h"

using namespace star::tools;
using namespace made;

namespace {

/// Rows of one joint at x = 1, 2, ...; a zero is a lost row.
Member xyz(const std::vector<float> &values) {
    std::vector<float> numbers;
    for (const float value : values) numbers.insert(numbers.end(), {value, 0, 0});
    return {"xyz.npy", npy_of("<f4", "(" + std::to_string(values.size()) + ", 1, 3)", raw(numbers))};
}

Member integers(const std::string &name, const std::vector<int64_t> &values) {
    return {name + ".npy", npy_of("<i8", "(" + std::to_string(values.size()) + ",)", raw(values))};
}

Recording read(const std::string &archive) {
    ZipFile file = ZipFile::view(archive);
    return read_npz(file, "x.npz", "x");
}

Recording read(const std::vector<Member> &members) { return read(zip(members)); }

using made::refusal;

std::string refusal(const std::vector<Member> &members) {
    return refusal([&] { read(members); });
}

/// A .skeleton file of frames of bodies: id and x of all joints.
std::string skeleton(const std::vector<std::vector<std::pair<std::string, float>>> &frames, const std::string &end = "\n") {
    std::string text = std::to_string(frames.size()) + end;
    for (const auto &bodies : frames) {
        text += std::to_string(bodies.size()) + end;
        for (const auto &[id, x] : bodies) {
            text += id + " 0 1 1 1 1 0 0.1 -0.2 2" + end + "25" + end;
            for (int joint = 0; joint < 25; ++joint)
                text +=
                    std::to_string(x) + " " + std::to_string(x == 0 ? 0 : joint + 1) + " 0 1 2 3 4 0 0 0 -1.#IND NaN" + end;
        }
    }
    return text;
}

std::string replaced(std::string text, const std::string &from, const std::string &to) {
    return text.replace(text.find(from), from.size(), to);
}

Recording ntu(const std::string &text) { return parse_ntu(text, "a.skeleton", "a"); }

std::string ntu_refusal(const std::string &text) {
    return refusal([&] { ntu(text); });
}

}  // namespace

TEST_CASE("clips, persons and lost rows") {
    for (const bool deflate : {false, true}) {
        std::vector<Member> members = {xyz({1, 0, 3, 4, 5, 0, 7, 8, 9, 10}), integers("lengths", {3, 1, 6}),
                                       integers("persons", {1, 1, 2})};
        for (Member &member : members) member.deflate = deflate;
        const Recording recording = read(members);
        REQUIRE(recording.clips.size() == 3);
        CHECK(recording.joints.size() == 24);
        CHECK(recording.joints[6] == 4);
        CHECK(recording.clips[0].name == "x/0");
        CHECK(recording.clips[0].dropped == 1);
        CHECK(recording.clips[2].person_lengths == std::vector<int64_t>{2, 3});
        CHECK(recording.clips[2].first_row == 3);
        CHECK(recording.joints[3 * 5] == 8);
    }
}

TEST_CASE("a person who is never tracked is absent") {
    const Recording recording = read({xyz({0, 0, 3, 4}), integers("persons", {2})});
    CHECK(recording.clips[0].person_lengths == std::vector<int64_t>{2});
    CHECK(recording.clips[0].dropped == 2);
}

TEST_CASE("types of numbers") {
    CHECK(read({{"xyz.npy", npy_of("<f8", "(1, 1, 3)", raw<double>({0.1, 2, 3}))}}).joints[0] == 0.1f);
    const Recording half =
        read({{"xyz.npy", npy_of("<f2", "(1, 2, 3)", raw<uint16_t>({0x3C00, 0xC000, 0x0001, 0x7BFF, 0x3555, 0x8000}))}});
    CHECK(half.joints == std::vector<float>{1, -2, std::ldexp(1.0f, -24), 65504, 0.333251953125f, -0.0f});
    for (const auto &[descr, data] : {std::pair<std::string, std::string>{"|i1", raw<int8_t>({2})},
                                      {"<u2", raw<uint16_t>({2})},
                                      {"<i4", raw<int32_t>({2})},
                                      {"<u8", raw<uint64_t>({2})}})
        CHECK(read({xyz({1, 2}), {"lengths", npy_of(descr, "(1,)", data)}}).clips[0].rows == 2);
}

TEST_CASE("names are text") {
    const auto named = [](const std::vector<uint32_t> &text) {
        return std::vector<Member>{xyz({1}), {"names.npy", npy_of("<U" + std::to_string(text.size()), "(1,)", raw(text))}};
    };
    CHECK(read(named({'a', 0xE9, 0x20AC, 0x1F600, 0})).clips[0].name == "a\u00e9\u20ac\U0001F600");
    CHECK_SAYS(refusal(named({0xD800})), "no character");
    CHECK_SAYS(refusal(named({0x110000})), "no character");
}

TEST_CASE("arrays that do not fit") {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    constexpr int64_t most = std::numeric_limits<int64_t>::max();
    CHECK_SAYS(refusal({integers("lengths", {1})}),
               "array is missing\n  where:    x.npz\n  found:    lengths\n  expected: an array 'xyz'");
    CHECK_SAYS(refusal({{"xyz.npy", npy_of("<f4", "(3, 1)", raw<float>({1, 2, 3}))}}),
               "wrong shape\n  where:    x.npz\n  found:    (3, 1)");
    CHECK_SAYS(refusal({{"xyz.npy", npy_of("<f4", "(1, 1, 2)", raw<float>({1, 2}))}}), "wrong shape");
    CHECK_SAYS(refusal({{"xyz.npy", npy_of("<i4", "(1, 1, 3)", raw<int32_t>({1, 2, 3}))}}),
               "wrong type\n  where:    x.npz\n  found:    int32");
    CHECK_SAYS(refusal({{"xyz.npy", npy_of("<f8", "(1, 1, 3)", raw<double>({1, 1e300, 3}))}}), "NaN or infinity");
    CHECK_SAYS(refusal({xyz({1, nan})}), "NaN or infinity\n  where:    x.npz\n  found:    row 1, joint 0");
    CHECK_SAYS(refusal({xyz({1, 2}), integers("lengths", {3})}),
               "does not cover the frames\n  where:    x.npz\n  found:    smallest 3, sum 3");
    CHECK_SAYS(refusal({xyz({1, 2}), integers("lengths", {-1, 3})}), "does not cover");
    CHECK_SAYS(refusal({xyz({1, 2}), integers("lengths", {most, most, 4})}), "does not cover");
    CHECK_SAYS(refusal({xyz({1, 2}), {"lengths.npy", npy_of("<u8", "(2,)", raw<uint64_t>({~0ull, 3}))}}), "does not cover");
    CHECK_SAYS(refusal({xyz({1, 2}), integers("lengths", {})}), "not usable\n  where:    x.npz\n  found:    int64 (0,)");
    CHECK_SAYS(refusal({xyz({1, 2}), {"lengths.npy", npy_of("<f8", "(1,)", raw<double>({2}))}}), "not usable");
    CHECK_SAYS(refusal({xyz({1, 2}), integers("persons", {3})}), "does not divide the clips");
    CHECK_SAYS(refusal({xyz({1, 2}), integers("persons", {0})}), "does not divide");
    CHECK_SAYS(refusal({xyz({1, 2}), integers("persons", {1, 1})}), "does not fit the clips");
    CHECK_SAYS(refusal({xyz({1, 2}), integers("names", {1})}),
               "does not fit the clips\n  where:    x.npz\n  found:    int64 (1,)");
    CHECK_SAYS(refusal({xyz({1, 0}), integers("lengths", {1, 1})}), "clip without any tracked body\n  where:    x/1");
    CHECK_SAYS(refusal({xyz({1}), integers("lengths", {1, 0}), integers("persons", {1, most})}), "without any tracked body");
}

TEST_CASE("headers that numpy does not write") {
    const std::string data = raw<float>({1, 2, 3});
    for (const char *header :
         {"", "{", "{}", "3", "{'descr': '<f4', 'fortran_order': False}",
          "{'descr': '<f4', 'fortran_order': 0, 'shape': (1, 1, 3)}",
          "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 3), 'x': 1}",
          "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, -3)}",
          "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 99999999999999999999)}",
          "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 3)}",
          "{'descr': '<f4', 'fortran_order': False, 'shape': (3)}", "{'descr': '<f4, 'fortran_order': False, 'shape': (3,)}",
          "{'descr': '', 'fortran_order': False, 'shape': (1, 1, 3)}",
          "{'descr': '<', 'fortran_order': False, 'shape': (1, 1, 3)}",
          "{'descr': '<f', 'fortran_order': False, 'shape': (1, 1, 3)}",
          "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 3)} x"}) {
        CAPTURE(header);
        CHECK_SAYS(refusal({{"xyz.npy", npy(header, data)}}), "not one that numpy writes");
    }
    CHECK(read({{"xyz.npy", npy("{\"shape\":(1,1,3),'fortran_order':False,'descr':'<f4'}", data)}}).clips.size() == 1);
    CHECK(read({{"xyz.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 3), }\n", data, 2)}}).clips.size() ==
          1);
    CHECK_SAYS(refusal({{"xyz.npy", npy("", data, 3)}}), "format 3");
    CHECK_SAYS(refusal({{"xyz.npy", npy(std::string(20'000, ' '), data)}}), "20000 bytes");
    CHECK_SAYS(refusal({{"xyz.npy", npy_of("|O", "(1,)", data)}}), "Python objects");
    CHECK_SAYS(refusal({xyz({1}), {"extra.npy", npy_of("|O", "(1,)", data)}}), "Python objects");
    CHECK_SAYS(refusal({{"xyz.npy", npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,)}", data)}}),
               "records");
    CHECK_SAYS(refusal({{"xyz.npy", npy_of(">f4", "(1, 1, 3)", data)}}), "big-endian (>f4)");
    CHECK_SAYS(refusal({{"xyz.npy", npy_of("<f4", "(1, 1, 3)", data, "True")}}), "Fortran order");
    CHECK_SAYS(refusal({{"xyz.npy", npy_of("<f4", "(2, 1, 3)", data)}}), "holds 12 bytes, which is not float32 (2, 1, 3)");
    CHECK_SAYS(refusal({{"xyz.npy", npy_of("<f4", "(4294967296, 4294967296, 3)", data)}}), "more numbers than can be counted");
    CHECK_SAYS(refusal({{"xyz.npy", npy_of("<f8", "(2305843009213693952, 1, 1)", "")}}), "which is not float64");
    CHECK_SAYS(refusal({{"xyz.npy", npy_of("<f0", "(1, 1, 3)", "")}}), "not float16");
    CHECK_SAYS(refusal({xyz({1}), {"readme.txt", "hello, world"}}), "readme.txt is no array");
}

TEST_CASE("damaged and hostile archives") {
    const Member good = xyz({1, 2});
    Member bad = good;
    bad.crc_change = 1;
    CHECK_SAYS(refusal({bad}), "bad CRC-32 of xyz.npy");
    bad = good;
    bad.flags = 1;
    CHECK_SAYS(refusal({bad}), "encrypted");
    bad = good;
    bad.size_change = 8;
    CHECK_SAYS(refusal({bad}), "contradicts its own size");
    bad.deflate = true;
    CHECK_SAYS(refusal({bad}), "which is not float32");
    CHECK_SAYS(refusal({good, good}), "two arrays 'xyz'");
    CHECK_SAYS(refusal({good, {"xyz", good.data}}), "two arrays 'xyz'");
    CHECK_SAYS(refusal({{std::string("a\0b", 3), ""}}), "name is not usable");
    CHECK_SAYS(refusal(std::vector<Member>(257, good)), "257 members");
    for (const char *text : {"", "P", "PK\5\6", "no archive at all, but long enough to be taken for one"})
        CHECK_SAYS(refusal([&] { read(std::string(text)); }), "no zip directory");
    const std::string archive = zip({good, integers("lengths", {1, 1})});
    for (size_t size = 0; size < archive.size(); ++size) CHECK(refusal([&] { read(archive.substr(0, size)); }) != "");
}

TEST_CASE("a member never unfolds to more than is harmless") {
    Member bomb{"xyz.npy", npy_of("<f4", "(2000000, 1, 3)", std::string(24'000'000, '\0')), true};
    CHECK_SAYS(refusal({bomb}), "would grow to more than 16777216 bytes");
    bomb = {"xyz.npy", npy_of("<f4", "(1000, 1, 3)", std::string(12'000, '\1')), true};
    CHECK(read({bomb}).clips[0].rows == 1000);
    bomb.size_change = 0x7fff0000;
    CHECK_SAYS(refusal({bomb}), "would grow");
    // the second entry of the directory points at the first member again
    std::string archive = zip({xyz({1}), {"abc.npy", "other"}});
    const size_t first = archive.find("PK\1\2"), second = archive.find("PK\1\2", first + 4);
    archive.replace(second + 42, 4, archive, first + 42, 4);
    archive.replace(second, 42, archive, first, 42);
    archive.replace(second + 46, 7, "xyz.npy");
    CHECK_SAYS(refusal([&] { read(archive); }), "overlap");
}

TEST_CASE("a skeleton file of one body") {
    for (const char *end : {"\n", "\r\n", "\r"}) {
        const Recording recording = ntu(skeleton({{{"7", 1}}, {{"7", 2}}}, end));
        REQUIRE(recording.clips.size() == 1);
        CHECK(recording.clips[0].person_lengths == std::vector<int64_t>{2});
        CHECK(recording.joints[0] == 1);
        CHECK(recording.joints[3 * 25 + 3 * 24 + 1] == 25);
    }
    CHECK(ntu(skeleton({{{"7", 1}}}) + "\n \n").clips[0].rows == 1);
}

TEST_CASE("rows of a lost or absent body are dropped and counted") {
    const Recording recording = ntu(skeleton({{{"1", 1}}, {}, {{"1", 0}}, {{"1", 2}}}));
    CHECK(recording.clips[0].rows == 2);
    CHECK(recording.clips[0].dropped == 2);
}

TEST_CASE("the two persons who move most, whatever their ids") {
    const Recording recording = ntu(skeleton({{{"1", 1}, {"2", 5}, {"-3", 9}}, {{"1", 1.1f}, {"2", 7}, {"-3", 9.5f}}}));
    CHECK(recording.clips[0].person_lengths == std::vector<int64_t>{2, 2});
    CHECK(recording.joints[0] == 5);
    CHECK(recording.joints[2 * 75] == 9);
}

TEST_CASE("a new id near where a person was lost continues that person") {
    CHECK(ntu(skeleton({{{"1", 1}}, {{"2", 1.4f}}})).clips[0].person_lengths == std::vector<int64_t>{2});
    CHECK(ntu(skeleton({{{"1", 1}}, {{"2", 1.6f}}})).clips[0].person_lengths == std::vector<int64_t>{1, 1});
    const Recording both = ntu(skeleton({{{"1", 1}, {"2", 1.2f}}, {{"2", 1.2f}, {"3", 1.19f}}}));
    CHECK(both.clips[0].person_lengths == std::vector<int64_t>{2, 2});  // 2 was not gone when 3 came
}

TEST_CASE("coordinates as Python reads them") {
    const std::string one = skeleton({{{"7", 1}}});
    const auto x_of = [&](const std::string &text) { return ntu(replaced(one, "1.000000", text)).joints[0]; };
    CHECK(x_of(".5") == 0.5f);
    CHECK(x_of("+5.") == 5.0f);
    CHECK(x_of("-1E-3") == -0.001f);
    CHECK(x_of("1e-400") == 0.0f);
    CHECK(x_of("3.4028234663852886e38") == std::numeric_limits<float>::max());
    for (const char *text : {"nan", "inf", "1e39", "1e999", "0x1", "1_0", "+-1", "1,5", "x", "1.0\xff", "--1"}) {
        CAPTURE(text);
        CHECK_SAYS(ntu_refusal(replaced(one, "1.000000", text)), "file is corrupt\n  where:    a.skeleton, line 5");
    }
}

TEST_CASE("skeleton files that are not whole") {
    const std::string one = skeleton({{{"7", 1}}});
    CHECK_SAYS(ntu_refusal(""),
               "file is truncated\n  where:    a.skeleton, line 1\n  found:    end of file\n  expected: the number of frames");
    CHECK_SAYS(ntu_refusal("0\n"), "file without frames");
    CHECK_SAYS(ntu_refusal("-1\n"), "found:    '-1'");
    CHECK_SAYS(ntu_refusal("1_0\n"), "file is corrupt");
    CHECK_SAYS(ntu_refusal("99999999999999999999\n"), "file is corrupt");
    CHECK_SAYS(ntu_refusal("9999999999999999999\n0\n"), "expected: the number of bodies of frame 2 of");
    CHECK_SAYS(ntu_refusal("1\n9999999999\n"), "expected: body 1 of frame 1 of 1");
    CHECK_SAYS(ntu_refusal("2\n0\n0\n"), "no body in any frame\n  where:    a.skeleton\n  found:    2 frames, 0 bodies");
    CHECK_SAYS(ntu_refusal(skeleton({{{"7", 0}}})), "no body in any frame");
    CHECK_SAYS(ntu_refusal(replaced(one, "\n25\n", "\n24\n")),
               "wrong joint count\n  where:    a.skeleton, line 4\n  found:    24 joints");
    CHECK_SAYS(
        ntu_refusal(one + "x\n"),
        "text after the last frame\n  where:    a.skeleton, line 30\n  found:    'x'\n  expected: end of file after 1 frames");
    CHECK_SAYS(ntu_refusal(skeleton({{{"7", 1}, {"07", 2}}})), "body id 7 twice in frame 1");
    CHECK_SAYS(ntu_refusal(replaced(one, "7 0 1", "x 0 1")), "10 fields of a body, the first its id");
    for (size_t size = 0; size + 1 < one.size(); ++size) {
        const bool whole = size + 3 >= one.size();  // a last field that lost letters is still a field
        CHECK((ntu_refusal(one.substr(0, size)) == "") == whole);
    }
    CHECK_SAYS(ntu_refusal(one.substr(0, one.size() - 12)), "file is truncated\n  where:    a.skeleton, line 29");
    CHECK_SAYS(ntu_refusal(std::string("\xff\x01") + std::string(100, 'a')), "'\\xff");
}

TEST_CASE("files that are no recording") {
    CHECK_SAYS(refusal([] { read_recording("/nowhere/a.npz"); }), "no such file\n  where:    /nowhere/a.npz");
    CHECK_SAYS(refusal([] { read_recording("/"); }), "no such file");
    CHECK_SAYS(refusal([] { read_recording("/proc/self/cmdline"); }), "unknown kind of recording");
}
