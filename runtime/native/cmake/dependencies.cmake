# The libraries the native runtime is built from: the system's, or where one is missing and STAR_EDGE_FETCH is on, its
# upstream release, checked by its hash. `make` and CI build with the system's; the download itself is tried by neither.
#
#   star_json    JSON             star_cli  arguments of star-run
#   star_sha256  hashes of files  star_zip  zip archives, for star-run
#
# Archives (.a) come before shared libraries, so that what is built can be copied to a board alone.
option(STAR_EDGE_FETCH "Download libraries that the system lacks" ON)
include(FetchContent)
if(POLICY CMP0135)
  cmake_policy(SET CMP0135 NEW) # a newer download is newer than what was made from an older one
endif()

# Sets <name>_SOURCE_DIR. SOURCE_SUBDIR names no folder: a release's own CMake files would install it into the wheel.
macro(fetch name debian_package url hash)
  if(NOT STAR_EDGE_FETCH)
    message(FATAL_ERROR "${name} is missing: install it (Debian, Ubuntu: apt-get install ${debian_package}), "
                        "or let its release be downloaded: -DSTAR_EDGE_FETCH=ON")
  endif()
  message(STATUS "${name} is missing (Debian, Ubuntu: apt-get install ${debian_package}); downloading ${url}")
  FetchContent_Declare(${name} URL ${url} URL_HASH SHA256=${hash} SOURCE_SUBDIR none)
  FetchContent_MakeAvailable(${name})
endmacro()

add_library(star_json INTERFACE)
find_package(nlohmann_json 3.10 QUIET)
if(nlohmann_json_FOUND)
  target_link_libraries(star_json INTERFACE nlohmann_json::nlohmann_json)
else()
  fetch(json nlohmann-json3-dev https://github.com/nlohmann/json/releases/download/v3.11.3/json.tar.xz
        d6c65aca6b1ed68e7a182f4757257b107ae403032760ed6ef121c9d55e81757d)
  target_include_directories(star_json SYSTEM INTERFACE ${json_SOURCE_DIR}/include)
endif()

add_library(star_cli INTERFACE)
find_package(CLI11 2.1 QUIET)
if(CLI11_FOUND)
  target_link_libraries(star_cli INTERFACE CLI11::CLI11)
else()
  fetch(cli11 libcli11-dev https://github.com/CLIUtils/CLI11/archive/refs/tags/v2.4.2.tar.gz
        f2d893a65c3b1324c50d4e682c0cdc021dd0477ae2c048544f39eed6654b699a)
  target_include_directories(star_cli SYSTEM INTERFACE ${cli11_SOURCE_DIR}/include)
endif()

add_library(star_sha256 INTERFACE)
find_path(MBEDTLS_INCLUDE_DIR mbedtls/sha256.h)
find_library(MBEDCRYPTO_LIBRARY NAMES libmbedcrypto.a mbedcrypto)
if(MBEDTLS_INCLUDE_DIR AND MBEDCRYPTO_LIBRARY)
  target_include_directories(star_sha256 SYSTEM INTERFACE ${MBEDTLS_INCLUDE_DIR})
  target_link_libraries(star_sha256 INTERFACE ${MBEDCRYPTO_LIBRARY})
else()
  fetch(mbedtls libmbedtls-dev https://github.com/Mbed-TLS/mbedtls/releases/download/mbedtls-3.6.2/mbedtls-3.6.2.tar.bz2
        8b54fb9bcf4d5a7078028e0520acddefb7900b3e66fec7f7175bb5b7d85ccdca)
  set(ENABLE_PROGRAMS OFF CACHE INTERNAL "")
  set(ENABLE_TESTING OFF CACHE INTERNAL "")
  set(MBEDTLS_FATAL_WARNINGS OFF CACHE INTERNAL "")
  add_subdirectory(${mbedtls_SOURCE_DIR} ${mbedtls_BINARY_DIR} EXCLUDE_FROM_ALL)
  target_link_libraries(star_sha256 INTERFACE mbedcrypto)
endif()

add_library(star_zip INTERFACE)
find_path(MINIZIP_INCLUDE_DIR minizip/unzip.h)
find_library(MINIZIP_LIBRARY NAMES libminizip.a minizip)
find_library(ZLIB_LIBRARY NAMES libz.a z)
if(MINIZIP_INCLUDE_DIR AND MINIZIP_LIBRARY AND ZLIB_LIBRARY)
  target_include_directories(star_zip SYSTEM INTERFACE ${MINIZIP_INCLUDE_DIR})
  target_link_libraries(star_zip INTERFACE ${MINIZIP_LIBRARY} ${ZLIB_LIBRARY})
else()
  fetch(zlib "libminizip-dev zlib1g-dev" https://github.com/madler/zlib/releases/download/v1.3.1/zlib-1.3.1.tar.gz
        9a93b2b7dfdac77ceba5a558a580e74667dd6fede4585b91eefb60f03b72df23)
  file(GLOB zlib_sources ${zlib_SOURCE_DIR}/*.c)
  set(minizip_sources ${zlib_SOURCE_DIR}/contrib/minizip)
  add_library(zlib_fetched STATIC ${zlib_sources} ${minizip_sources}/ioapi.c ${minizip_sources}/unzip.c
                                  ${minizip_sources}/zip.c)
  target_compile_definitions(zlib_fetched PRIVATE HAVE_UNISTD_H)
  target_include_directories(zlib_fetched SYSTEM PUBLIC ${zlib_SOURCE_DIR} ${zlib_SOURCE_DIR}/contrib)
  target_link_libraries(star_zip INTERFACE zlib_fetched)
endif()
