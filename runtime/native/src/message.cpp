#include "message.h"

#include <utility>

namespace star {

std::string message(std::string_view what, const Details &details) {
    std::string line(what);
    const std::pair<const char *, const std::string &> parts[] = {{"; where: ", details.where},
                                                                  {"; found: ", details.found},
                                                                  {"; expected: ", details.expected},
                                                                  {"; next: ", details.next}};
    for (const auto &[label, part] : parts) {
        if (!part.empty()) line += label + part;
    }
    for (char &character : line) {
        if (static_cast<unsigned char>(character) < ' ' || character == 0x7f) character = '?';
    }
    return line;
}

std::string in_quotes(std::string_view text) {
    constexpr std::size_t longest = 80;
    if (text.size() <= longest) return "'" + std::string(text) + "'";
    std::size_t end = longest;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) end--;  // not within a UTF-8 character
    return "'" + std::string(text.substr(0, end)) + "...'";
}

}  // namespace star
