// Writes seeds for fuzz_bundle into a folder: make_bundle_seeds FOLDER
#include <filesystem>
#include <fstream>

#include "../tests/bundle_writer.h"

using namespace star;
using namespace star::test;

namespace {

std::string big_endian(std::size_t length) {
    std::string bytes;
    for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(length >> shift);
    return bytes;
}

void write(const std::filesystem::path &path, const Files &files) {
    std::ofstream(path, std::ios::binary) << big_endian(files.manifest.size()) << big_endian(files.weights.size())
                                          << files.manifest << files.weights << files.calibration;
}

/// The least of everything, in 2-D.
Files smallest() {
    Json manifest = tiny_manifest();
    Json &config = manifest["model"]["config"];
    for (const char *size : {"classes", "dim", "heads", "hidden"}) config[size] = 1;
    config["joints"] = 2;
    config["channels"] = manifest["features"]["channels"] = 3;
    config["edges"] = {{0, 0}, {1, 0}};
    manifest["features"]["centre"] = "none";
    manifest["skeleton"] = {{"name", "pair"}, {"joints", {"a", "b"}}, {"bones", {{1, 0}}}, {"pairs", {{0, 1}}}, {"root", 0},
                            {"dims", 2}};
    manifest["class_names"] = {"wave"};
    manifest["ops"] = {{{"name", "StarSparseAttention"}, {"domain", "star_edge"}, {"version", 1}}};
    return seal(manifest, safetensors(random_tensors(config_of(manifest))));
}

}  // namespace

int main(int count, char **arguments) {
    if (count != 2) return 2;
    const std::filesystem::path folder = arguments[1];
    write(folder / "tiny", tiny_files());
    write(folder / "calibrated", calibrated_files());
    write(folder / "smallest", smallest());
    write(folder / "thin", thin_files());
    std::ofstream(folder / "empty");
    return 0;
}
