#include "calibration.h"

#include <cmath>

#include "error.h"
#include "json.h"
#include "message.h"

namespace star {

namespace {

CalibrationTable read_calibration(const Value &document) {
    CalibrationTable table;
    table.weights_sha256 = document.at("weights_sha256").text();
    for (const auto &[tensor, value] : document.at("ranges").fields()) {
        const double range = value.number();
        const auto amax = static_cast<float>(range);  // may round to nothing or to infinity
        if (!std::isfinite(amax) || amax <= 0)
            throw Malformed("range of " + in_quotes(tensor) + " cannot become a scale", "amax = " + value.json().dump(),
                            "a finite number above 0");
        table.ranges.emplace(tensor, amax);
    }
    if (table.ranges.empty()) throw Malformed("calibration table without ranges", "none", "a range of each quantised module");
    const std::size_t clips = document.at("clips").items().size();
    const int64_t samples = document.at("samples").integer(INT64_MIN, INT64_MAX);
    if (samples != static_cast<int64_t>(clips))
        throw Malformed("calibration table contradicts itself", std::to_string(clips) + " clip names",
                        std::to_string(samples) + " clips");
    return table;
}

}  // namespace

CalibrationTable parse_calibration(std::string_view text, const std::string &where) {
    try {
        const Json json = parse_json(text);
        const Value document(json);
        check_schema(document, "star-edge/calibration/1", where);
        return read_calibration(document);
    } catch (const Malformed &error) {
        throw bad_file(error, "cannot read the calibration table", where, "star-edge calibrate");
    }
}

}  // namespace star
