#include "frame.h"

#include "errors.h"

namespace star::tools {
namespace {

void append_joint(const Value &joint, std::vector<float> &joints) {
    const std::vector<Value> numbers = joint.items();
    if (numbers.size() != 3)
        throw Malformed(concat("array of length ", numbers.size(), " at '", joint.path(), "'"), "three numbers");
    for (const Value &number : numbers)
        joints.push_back(static_cast<float>(number.number()));  // too large: infinite, which no stream takes
}

Frame::Person person_of(const Value &value) {
    Frame::Person person;
    const Value id = value.at("id");
    if (!id.json().is_string() && !id.json().is_number_integer())
        throw Malformed(id.json().dump() + " at '" + id.path() + "'", "an integer or a text");
    person.id = id.json();
    for (const Value &joint : value.at("joints").items()) append_joint(joint, person.joints);
    return person;
}

}  // namespace

Frame Frame::parse(std::string_view line) {
    const Json json = parse_json(line);
    const Value value(json);
    Frame frame;
    for (const Value &person : value.at("persons").items()) frame.persons.push_back(person_of(person));
    if (const std::optional<Value> t = value.find("t"); t && !t->json().is_null()) frame.t = t->number();
    return frame;
}

}  // namespace star::tools
