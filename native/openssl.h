// The part of OpenSSL 3 that the addon calls, declared here because Node exports the functions but its npm package brings
// no headers. These prototypes and numbers are OpenSSL 3's stable ABI; the version is checked when the addon is loaded.
#pragma once
#include <cstddef>

extern "C" {
struct EVP_CIPHER;
struct EVP_CIPHER_CTX;
struct EVP_MAC;
struct EVP_MAC_CTX;
struct OSSL_PARAM {
  const char* key;
  unsigned int data_type;
  void* data;
  size_t data_size;
  size_t return_size;
};

unsigned long OpenSSL_version_num(void);

EVP_CIPHER* EVP_CIPHER_fetch(void* library, const char* algorithm, const char* properties);
EVP_CIPHER_CTX* EVP_CIPHER_CTX_new(void);
void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX*);
int EVP_CIPHER_CTX_ctrl(EVP_CIPHER_CTX*, int type, int arg, void* ptr);
int EVP_EncryptInit_ex(EVP_CIPHER_CTX*, const EVP_CIPHER*, void* engine, const unsigned char* key, const unsigned char* iv);
int EVP_EncryptUpdate(EVP_CIPHER_CTX*, unsigned char* out, int* out_length, const unsigned char* in, int in_length);
int EVP_EncryptFinal_ex(EVP_CIPHER_CTX*, unsigned char* out, int* out_length);
int EVP_DecryptInit_ex(EVP_CIPHER_CTX*, const EVP_CIPHER*, void* engine, const unsigned char* key, const unsigned char* iv);
int EVP_DecryptUpdate(EVP_CIPHER_CTX*, unsigned char* out, int* out_length, const unsigned char* in, int in_length);
int EVP_DecryptFinal_ex(EVP_CIPHER_CTX*, unsigned char* out, int* out_length);

struct EVP_MD;
EVP_MD* EVP_MD_fetch(void* library, const char* algorithm, const char* properties);
int EVP_Digest(const void* data, size_t length, unsigned char* out, unsigned int* out_length, const EVP_MD* type, void* engine);

EVP_MAC* EVP_MAC_fetch(void* library, const char* algorithm, const char* properties);
EVP_MAC_CTX* EVP_MAC_CTX_new(EVP_MAC*);
void EVP_MAC_CTX_free(EVP_MAC_CTX*);
int EVP_MAC_init(EVP_MAC_CTX*, const unsigned char* key, size_t key_length, const OSSL_PARAM params[]);
int EVP_MAC_update(EVP_MAC_CTX*, const unsigned char* data, size_t length);
int EVP_MAC_final(EVP_MAC_CTX*, unsigned char* out, size_t* out_length, size_t out_size);
OSSL_PARAM OSSL_PARAM_construct_utf8_string(const char* key, char* value, size_t size);
OSSL_PARAM OSSL_PARAM_construct_end(void);
}

constexpr int kGcmGetTag = 0x10;
constexpr int kGcmSetTag = 0x11;
