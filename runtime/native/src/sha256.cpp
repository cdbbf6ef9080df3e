#include "sha256.h"

#include <mbedtls/md.h>

#include "error.h"

namespace star {

std::string sha256(std::string_view bytes) {
    unsigned char digest[32];
    const auto *data = reinterpret_cast<const unsigned char *>(bytes.data());
    const mbedtls_md_info_t *algorithm = mbedtls_md_info_from_type(MBEDTLS_MD_SHA256);
    if (algorithm == nullptr || mbedtls_md(algorithm, data, bytes.size(), digest) != 0)
        throw Error(STAR_INTERNAL, "mbed TLS was built without SHA-256");
    std::string hex;
    for (const unsigned char byte : digest) {
        hex += "0123456789abcdef"[byte >> 4];
        hex += "0123456789abcdef"[byte & 15];
    }
    return hex;
}

}  // namespace star
